"""What lies on a storage and who uses it; remove what no study uses; check all of it."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from raystudy.artifacts.files import is_folder, is_remote
from raystudy.artifacts.storage import Storage, locate_storage
from raystudy.artifacts.usage import Item, inventory, remove, shown_in
from raystudy.artifacts.verification import verify
from raystudy.cli.options import add_json, add_storage, print_table, put_json, wants_only_json
from raystudy.errors import SpecError, StorageError
from raystudy.execute.driver_lock import hold_study
from raystudy.study.storage_use import CONVENTION, Usage, frozen_problems, read_usage

_MOST_LISTED = 20  # items that prune names one by one
_ACTIONS = {
    "usage": "bytes and counts, and which study uses what",
    "prune": "remove what no study uses, after asking",
    "verify": "check every checksum, record, evaluation and study; changes nothing",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("action", choices=list(_ACTIONS), help="; ".join(f"{k}: {v}" for k, v in _ACTIONS.items()))
    parser.add_argument("--yes", action="store_true", help="prune without asking")
    add_storage(parser)
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Do one of the three."""
    if options.yes and options.action != "prune":
        raise SpecError(f"--yes goes with prune, but got {options.action}")
    storage = locate_storage(options.storage)
    if not is_remote(storage.root) and not is_folder(storage.root):
        raise StorageError(f"the storage must be there, but {storage.root} is not a folder. Name it with --storage")
    return {"usage": _usage, "prune": _prune, "verify": _verify}[options.action](options, storage)


def _usage(options: argparse.Namespace, storage: Storage) -> int:
    usage = read_usage(storage)
    if not wants_only_json(options):
        _print_usage(usage.as_dict())
    put_json(options, usage.as_dict())
    return 0


def _print_usage(usage: dict[str, Any]) -> None:
    rows = []
    for kind, row in usage["kinds"].items():
        rows.append((kind, f"{row['count']}", _size(row["bytes"])))
        parts = [(name.removesuffix("_bytes"), size) for name, size in row.items() if name.endswith("_bytes")]
        rows += [(f"  {name}", "", _size(size)) for name, size in parts]
    rows.append(("total", "", _size(sum(row["bytes"] for row in usage["kinds"].values()))))
    print_table((usage["storage"], "count", "size"), rows)
    print()
    used = [
        (row["name"], f"{row['num_runs']}", f"{row['num_shards']}", _size(row["bytes"]), _size(row["shared_bytes"]))
        for row in usage["studies"]
    ]
    for title, row in (("(shared by several)", usage["shared"]), ("(used by none, or left over)", usage["unused"])):
        used.append((title, f"{row['num_runs']}", f"{row['num_shards']}", _size(row["bytes"]), ""))
    print_table(("study, alone", "runs", "shards", "size", "shared besides"), used)
    if "foreign" in usage["kinds"]:
        print("foreign: entries that raystudy did not put there; prune leaves them alone")
    for row in usage["studies"]:
        if row["problem"] or row["note"]:
            print(f"{row['name']}: {row['problem'] or row['note']}")
    print(CONVENTION)


def _prune(options: argparse.Namespace, storage: Storage) -> int:
    """Remove what no study uses; holds every study meanwhile, so that no driver starts."""
    with ExitStack() as held:
        for item in inventory(storage.root):
            if item.kind == "studies":
                held.enter_context(hold_study(item.path, wait=False, say=print))
        usage = read_usage(storage)  # once more, now that nobody changes it
        if usage.problems:
            lines = "\n  ".join(usage.problems)
            raise StorageError(
                f"prune must know what every study uses, but nothing was removed, since\n  {lines}\n"
                f"Run that study again, use the raystudy that wrote it, or remove its folder"
            )
        unused = usage.unused
        _print_unused(options, usage, unused)
        if unused and (options.yes or _ask(unused)):
            for item in unused:
                remove(item)
            _say(options, f"removed {len(unused)} items, {_size(sum(item.num_bytes for item in unused))}")
            removed = unused
        else:
            _say(options, "nothing was removed")
            removed = []
        rows = [{"kind": item.kind, "name": item.name, "bytes": item.num_bytes} for item in removed]
        put_json(options, {"storage": str(storage.root), "removed": rows})
    return 0


def _print_unused(options: argparse.Namespace, usage: Usage, unused: Sequence[Item]) -> None:
    for kind in dict.fromkeys(item.kind for item in unused):
        _print_items(options, f"{kind} that no study uses", [item for item in unused if item.kind == kind], usage)
    _print_items(options, "foreign, not raystudy's and left alone", usage.foreign, usage)
    for study in usage.studies:
        if study.note:
            _say(options, f"{study.name}: {study.note}")
    _say(options, CONVENTION if unused else "every item is used by a study")


def _print_items(options: argparse.Namespace, title: str, items: Sequence[Item], usage: Usage) -> None:
    if not items:
        return
    _say(options, f"{title}: {len(items)}, {_size(sum(item.num_bytes for item in items))}")
    for item in items[:_MOST_LISTED]:
        _say(options, f"  {shown_in(item.path, usage.root)}  {_size(item.num_bytes)}")
    if len(items) > _MOST_LISTED:
        _say(options, f"  and {len(items) - _MOST_LISTED} more")


def _say(options: argparse.Namespace, line: str) -> None:
    print(line, file=sys.stderr if wants_only_json(options) else sys.stdout)


def _ask(unused: Sequence[Item]) -> bool:
    """Raises SpecError where nobody can answer."""
    if not sys.stdin.isatty():
        raise SpecError("prune must be confirmed, but there is no terminal to ask at; nothing was removed. Give --yes")
    print(f"Remove these {len(unused)} items? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _verify(options: argparse.Namespace, storage: Storage) -> int:
    found = verify(storage)
    found.problems += frozen_problems(storage)
    if not wants_only_json(options):
        for problem in found.problems:
            print(problem)
        if found.foreign:
            print(
                f"{len(found.foreign)} entries are not raystudy's and were not checked: {', '.join(found.foreign[:3])}"
            )
        counts = ", ".join(f"{count} {noun}" for noun, count in found.checked.items())
        print(f"checked {counts}: {len(found.problems) or 'no'} problem{'s' * (len(found.problems) != 1)}")
    told = {"checked": dict(found.checked), "problems": found.problems, "foreign": found.foreign}
    put_json(options, {"storage": str(storage.root), **told})
    return StorageError.exit_status if found.problems else 0


def _size(num_bytes: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB"]
    while num_bytes >= 1000 and len(units) > 1:
        num_bytes, units = num_bytes / 1000, units[1:]
    return f"{num_bytes:.0f} B" if units[0] == "B" else f"{num_bytes:.1f} {units[0]}"
