"""Removes what writers left half-written when they died: `.writing-<place>-<pid>-<random>` files and folders.

Removes too the checkpoints of a run that has its result: its writer died just before removing them. Those of a run
which is to be made on, as one trained again for readings is although it has a result, stay. A remote storage has no
half-written objects, so that there only checkpoints are removed. A `.writing-`
file of a process of this machine is removed once that process is gone; any other once it is a day older than the
storage's own clock says now. Nothing that a live writer holds is touched.
"""

import contextlib
import re
import shutil
from collections.abc import Container, Iterable
from pathlib import Path

from raystudy.artifacts import remote_files
from raystudy.artifacts.checkpoints import has_checkpoint, remove_checkpoint
from raystudy.artifacts.files import StoragePath, exists, storage_errors, writing_name
from raystudy.artifacts.processes import is_alive, place_tag

_NAME = re.compile(r"\.writing-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{32}")
DAY_SECONDS = 86_400


def remove_leftovers(
    root: StoragePath, study_folder: StoragePath, run_ids: Iterable[str], unfinished: Container[str] = frozenset()
) -> int:
    """Remove what is left over in the places a launch of these runs writes to; how many there were.

    `unfinished`: those that something still lacks of, whose checkpoints may be gone on from.
    """
    if not isinstance(root, Path) or not isinstance(study_folder, Path):
        _remove_remote_checkpoints(root, set(run_ids), unfinished)
        return 0
    runs = [root / "runs" / run_id for run_id in run_ids]
    folders = [study_folder, root / "shards", root / "built", *runs]
    folders += [folder / below for folder in runs for below in ("eval", "tasks", "attempts", "checkpoints")]
    for folder in runs:
        if folder.name not in unfinished and has_checkpoint(folder) and exists(folder / "result.json"):
            remove_checkpoint(folder)
    found = [path for folder in folders for path in _below(folder)]
    if not found:
        return 0
    now = _storage_seconds(root)
    return sum(_remove(path) for path in found if _is_left_over(path, now))


def _remove_remote_checkpoints(root: StoragePath, run_ids: Container[str], unfinished: Container[str]) -> None:
    if isinstance(root, Path):
        return
    listed = remote_files.below(root / "runs")
    for name in listed:
        run_id, _, below = name.partition("/")
        is_ours = run_id in run_ids and run_id not in unfinished and f"{run_id}/result.json" in listed
        if is_ours and (below == "checkpoint.safetensors" or below.startswith("checkpoints/")):
            remote_files.remove(root / "runs" / name)


def _below(folder: Path) -> list[Path]:
    return list(folder.glob(".writing-*")) if folder.is_dir() else []


def _storage_seconds(root: Path) -> float:
    """What time the storage has, which may not be the time of this machine."""
    probe = root / writing_name()
    with storage_errors(root):
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def _is_left_over(path: Path, now: float) -> bool:
    named = _NAME.fullmatch(path.name)
    if named and named[1] == place_tag() and not is_alive(int(named[2])):
        return True
    try:
        return now - path.stat().st_mtime > DAY_SECONDS
    except OSError:
        return False


def _remove(path: Path) -> bool:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return True
    return False
