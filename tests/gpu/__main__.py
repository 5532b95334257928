"""`make gpu`: every test marked `gpu`, with its outcome and figures in docs/results/gpu-<date>.json and .md.

Ends with 1, and writes nothing, where there is no CUDA device.
"""

import datetime
import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raystudy import __version__
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results"
SELECTION = ["-m", "gpu", str(ROOT / "tests")]  # wherever they lie


class Outcomes:
    """A pytest plugin that keeps what became of each test, why it was skipped if so, and the figures it recorded."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            row: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome}
            row["seconds"] = round(report.duration, 2)
            if report.skipped and isinstance(report.longrepr, tuple):
                row["reason"] = report.longrepr[2].removeprefix("Skipped: ")
            self.rows.append({**row, "figures": dict(report.user_properties)})


def main() -> int:
    """Run them; pytest's exit status, or 1 where there is no GPU."""
    outcomes = Outcomes()
    status = int(pytest.main(SELECTION, plugins=[outcomes]))
    if not torch.cuda.is_available():
        print(f"no CUDA device here (torch {torch.__version__}): {len(outcomes.rows)} tests skipped, no result written")
        return 1
    write(outcomes.rows, RESULTS, about())
    return status


def about() -> dict[str, str]:
    """The machine and the software that the outcomes are of."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "raystudy": __version__,
    }


def write(rows: list[dict[str, Any]], folder: Path, made: dict[str, str]) -> None:
    """The result file and its page."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"gpu-{made['date']}"
    stem.with_suffix(".json").write_text(json.dumps({**made, "tests": rows}, indent=1) + "\n", encoding="utf-8")
    lines = [f"# Checks on a GPU, {made['date']}", "", ", ".join(f"{k} {v}" for k, v in made.items()), ""]
    lines += ["| test | outcome | seconds | figures |", "|---|---|---|---|"]
    for row in rows:
        figures = "; ".join(f"{name} {value:.4g}" for name, value in row["figures"].items())
        figures = figures or row.get("reason", "")
        lines.append(f"| {row['test'].rpartition('::')[2]} | {row['outcome']} | {row['seconds']} | {figures} |")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written: {stem}.json and .md")


if __name__ == "__main__":
    sys.exit(main())
