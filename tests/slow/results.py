"""Where a slow check leaves its result: docs/results/<name>-<date>.json and a page beside it."""

import datetime
import json
from collections.abc import Sequence
from typing import Any

from tests.conftest import ROOT


def today() -> str:
    """The date of a result, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def write_result(name: str, document: dict[str, Any], lines: Sequence[str]) -> None:
    """Leave `document`, which has a `date`, and the page that `lines` are."""
    folder = ROOT / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{document['date']}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"results: {path}")


def table(first: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table of `rows`: the column `first`, then `columns`."""
    return [
        f"| {first} | " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {row[first]} | " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows),
    ]
