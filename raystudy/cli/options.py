"""Options that several verbs share, and how tables and JSON are printed."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.errors import SpecError
from raystudy.execute.log_events import LOG_FORMATS, VARIABLE

_STANDARD_OUTPUT = "-"


def add_study(parser: argparse.ArgumentParser, *, by_name: bool = False, required: bool = True) -> None:
    """The STUDY argument, and `--set`."""
    text = "path of a study file" + (", or the name of a study on the storage" if by_name else "; a name will not do")
    parser.add_argument("study", metavar="STUDY", help=text, nargs=None if required else "?")
    help_text = "override a key of the study; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=help_text)


def add_storage(parser: argparse.ArgumentParser) -> None:
    """`--storage`."""
    parser.add_argument(
        "--storage", metavar="URI", help="where shards, runs and studies lie (default: RAYSTUDY_STORAGE, the study "
        "file's storage, raystudy-storage/)"
    )  # fmt: skip


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """`--log-format text|json`."""
    help_text = "how progress is told on standard error: for people, or one JSON object a line (default: "
    parser.add_argument("--log-format", choices=LOG_FORMATS, help=f"{help_text}{VARIABLE}, text)")


def add_address(parser: argparse.ArgumentParser) -> None:
    """`--address` of a cluster's job server."""
    help_text = "the cluster's dashboard, such as http://HOST:8265 (default: RAY_API_SERVER_ADDRESS)"
    parser.add_argument("--address", metavar="URL", help=help_text)


def add_job(parser: argparse.ArgumentParser) -> None:
    """The argument that names a job."""
    help_text = "a job's id, or a study's name or file, which stands for its newest job (one that Ray's own command "
    help_text += "started: its file, as given there)"
    parser.add_argument("job", metavar="ID|STUDY", help=help_text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json [FILE]`."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STANDARD_OUTPUT,
        metavar="FILE",
        help="write JSON to FILE; without FILE (then put it after STUDY) print JSON alone on standard output",
    )


def wants_only_json(options: argparse.Namespace) -> bool:
    """Whether standard output must hold nothing but JSON."""
    return bool(options.json == _STANDARD_OUTPUT)


def put_json(options: argparse.Namespace, value: Any) -> None:
    """Write `value` where `--json` says, if it was given."""
    if options.json is None:
        return
    if wants_only_json(options):
        is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        print(json.dumps(value, indent=1, ensure_ascii=not is_unicode, allow_nan=False))
        return
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_output("--json", Path(options.json), text + "\n")


def write_output(option: str, path: Path, text: str) -> None:
    """Write what the user asked for to the file that `option` names.

    Raises:
        SpecError: the file cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{option} must name a file that can be written, but {path}: {error.strerror}") from error


def tell_damage(storage: Storage) -> None:
    """Say on standard error which records on the storage are torn or foreign."""
    for line in dict.fromkeys(storage.runs.damage):
        print(f"raystudy: {line}", file=sys.stderr)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain text table; the first column is left-aligned, the others right-aligned."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, others = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
        print("  ".join([first, *(text.rjust(width) for text, width in others)]).rstrip())
