"""Checks everything on a storage: checksums, digests, records, evaluations, curves, weights, checkpoints, studies.

Changes nothing. A problem is one line that names the file. What is merely left over or unused is no problem, nor what
is removed while it is looked at.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raystudy.artifacts import remote_files
from raystudy.artifacts.checkpoints import check_checkpoint_file, checkpoint_path, step_checkpoints
from raystudy.artifacts.compacted import unpack
from raystudy.artifacts.downstream import answers_digest, answers_problem, task_metrics
from raystudy.artifacts.evaluations import evaluated_metrics, evaluation_digest, evaluation_problem, reading_of
from raystudy.artifacts.files import (
    StoragePath,
    exists,
    is_remote,
    json_files,
    names_in,
    read_bytes,
    read_json,
    read_range,
    size_of,
)
from raystudy.artifacts.kept_tables import check_table, kept_tables
from raystudy.artifacts.results import Record, parse_result
from raystudy.artifacts.sealed import open_sealed
from raystudy.artifacts.shards import digest_by_manifest, shard_folder
from raystudy.artifacts.storage import Storage, StudyFolder
from raystudy.artifacts.study_lock import read_lock
from raystudy.artifacts.usage import Item, inventory, shown_in
from raystudy.errors import RaystudyError, StorageError
from raystudy.specs.reading import Reading
from raystudy.specs.run import read_run

_SUMS_AGREE = 1e-9  # relative; both are worked out from the same sums in double precision
_MOST_HEADER_BYTES = 100_000_000  # of a safetensors header, the format's own bound


@dataclass
class Verification:
    """What was wrong, one line each; how many things of each kind were looked at; what is not raystudy's."""

    problems: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)


def verify(storage: Storage) -> Verification:
    """Check every item of the storage.

    Raises:
        StorageError: it cannot be read, or holds nothing of raystudy's.
    """
    found = Verification()
    items = inventory(storage.root)
    found.foreign = [shown_in(item.path, storage.root) for item in items if item.kind == "foreign"]
    # From afar many items at a time, each with a ledger of its own that tells its damage.
    each = remote_files.at_once if is_remote(storage.root) else map
    for part in each(lambda item: _look_at(Storage(storage.root), item), [i for i in items if i.kind in _LOOKS]):
        found.problems += part.problems
        found.checked += part.checked
    return found


def _look_at(storage: Storage, item: Item) -> Verification:
    found = Verification()
    found.checked[item.kind] += 1
    _attempt(found, item.path, lambda: _LOOKS[item.kind](storage, item, found))
    return found


def _attempt(found: Verification, path: StoragePath, look: Callable[[], object]) -> None:
    """Run one look; what it raises becomes a line, unless `path` has been removed meanwhile, as running studies do."""
    try:
        look()
    except RaystudyError as error:
        problem = " ".join(str(error).split())
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        problem = f"{path} is damaged or foreign ({type(error).__name__}: {' '.join(str(error).split())})"
    else:
        return
    if os.path.lexists(path) if isinstance(path, Path) else exists(path):
        found.problems.append(problem)


def _shards(storage: Storage, item: Item, found: Verification) -> None:
    manifest = open_sealed(item.path)
    found.checked["shard files"] += len(manifest["files"])
    if digest_by_manifest(manifest) != item.name:
        raise StorageError(f"{item.path} must hold the shards of its name, but its manifest is that of others")
    for source in manifest.get("sources", ()):
        for part in source["parts"]:
            if not exists(shard_folder(storage.root, part["shard"])):
                raise StorageError(f"{item.path} reads the shards {part['shard']}, but they are not there")


def _pointer(_storage: Storage, item: Item, _found: Verification) -> None:
    value = read_json(item.path)
    if not isinstance(value["digest"], str):
        raise StorageError(f"{item.path} must hold a digest, but does not")


def _run(storage: Storage, item: Item, found: Verification) -> None:
    record: list[Record] = []
    names = set(names_in(item.path))
    spec, result, curve = (item.path / name for name in ("spec.json", "result.json", "curve.jsonl"))
    if spec.name in names:
        _attempt(found, spec, lambda: _check_id(item, _json(spec), spec))
    if result.name in names:
        _attempt(found, result, lambda: record.append(_result(item, result)))
        found.checked["results"] += 1
    if curve.name in names:
        before = len(storage.runs.damage)
        _attempt(found, curve, lambda: storage.runs.read_curve(item.name))  # it tells what is torn, and leaves it out
        found.problems += storage.runs.damage[before:]
    evaluations = json_files(item.path / "eval") if "eval" in names else []
    for path in evaluations:
        _attempt(found, path, lambda path=path: _evaluation(item, path, record))  # type: ignore[misc]
    answers = json_files(item.path / "tasks") if "tasks" in names else []
    for path in answers:
        _attempt(found, path, lambda path=path: _answers(item, path, record))  # type: ignore[misc]
    found.checked["evaluations"] += len(evaluations) + len(answers)
    for name in sorted(names):
        if name.endswith(".safetensors") and name.startswith(("weights-", "branch-")):
            path = item.path / name
            _attempt(found, path, lambda path=path: _weights(path))  # type: ignore[misc]
            found.checked["weights"] += 1
    checkpoints = step_checkpoints(item.path) if "checkpoints" in names else []
    own = checkpoint_path(item.path)
    for path in (*checkpoints, *([own] if own.name in names else [])):
        _attempt(found, path, lambda path=path: _checkpoint(item, path))  # type: ignore[misc]
        found.checked["checkpoints"] += 1
    for path in json_files(item.path / "attempts") if "attempts" in names else []:
        _attempt(found, path, lambda path=path: _json(path)["cause"])  # type: ignore[misc]


def _json(path: StoragePath) -> Any:
    """The JSON in a file that was listed; raises FileNotFoundError where it is gone."""
    value = read_json(path)
    if value is None and not exists(path):
        raise FileNotFoundError(str(path))
    return value


def _result(item: Item, path: StoragePath) -> Record:
    value = _json(path)
    record = parse_result(item.name, value, path)
    _check_id(item, value["spec"], path)
    return record


def _check_id(item: Item, spec: Any, path: StoragePath) -> None:
    try:
        run_id = read_run(json.dumps(spec)).run_id
    except ValidationError as error:
        raise StorageError(f"{path} must hold a run's spec, but {error.errors()[0]['msg']}") from error
    if run_id != item.name:
        raise StorageError(f"{path} must hold the spec of run {item.name}, but holds that of {run_id}")


def _evaluation(item: Item, path: StoragePath, record: list[Record]) -> None:
    value = _json(path)
    problem = evaluation_problem(value, item.name)
    if problem is None and path.stem != evaluation_digest(value["validation"], reading_of(value)):
        problem = "its name is not that of its validation set, step and read-out"
    final = record[0].metric("loss", value["validation"]) if problem is None and record else None
    if problem is None and final is not None:
        loss = evaluated_metrics(value)["loss"]
        if not math.isclose(loss, final, rel_tol=_SUMS_AGREE) and _is_last(record[0], reading_of(value)):
            problem = f"its sums give a loss of {loss!r}, the result says {final!r}"
    if problem is not None:
        raise StorageError(f"{path}: {problem}")


def _answers(item: Item, path: StoragePath, record: list[Record]) -> None:
    value = _json(path)
    problem = answers_problem(value, item.name)
    if problem is None and path.stem != answers_digest(value["items"], reading_of(value)):
        problem = "its name is not that of its items, step and read-out"
    if problem is None and record and _is_last(record[0], reading_of(value)):
        for name, measured in task_metrics(value).items():
            final = record[0].metric(name, value["items"])
            if final is not None and not math.isclose(measured, final, rel_tol=_SUMS_AGREE, abs_tol=_SUMS_AGREE):
                problem = f"its answers give {name} {measured!r}, the result says {final!r}"
    if problem is not None:
        raise StorageError(f"{path}: {problem}")


def _is_last(record: Record, reading: Reading) -> bool:
    steps = record.result["spec"].get("settings", {}).get("steps")
    return bool(reading.readout is None and steps == reading.step)


def _weights(path: StoragePath) -> None:
    """The header of a safetensors file: 8 bytes of length, JSON, and tensors that end where the file does."""
    size = size_of(path)
    if size is None:
        raise FileNotFoundError(str(path))
    length = int.from_bytes(read_range(path, 0, 8), "little")
    if length > min(_MOST_HEADER_BYTES, size):
        raise StorageError(f"{path} must hold weights, but its header is longer than the file")
    header = json.loads(read_range(path, 8, 8 + length))
    end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    if 8 + length + end != size:
        raise StorageError(f"{path} must hold weights, but its tensors do not end where the file does")


def _checkpoint(item: Item, path: Path) -> None:
    if find_spec("safetensors") is None:  # optional, needed only where something trains
        _weights(path)
    else:
        check_checkpoint_file(path, item.name)


def _study(storage: Storage, item: Item, found: Verification) -> None:
    folder = StudyFolder.at(storage.root, item.path)
    names = set(names_in(item.path))
    _attempt(found, item.path, lambda: read_lock(item.path))
    # Those that have a reader of their own are read by it.
    known = ("study.json", "lock.json", "comparison.json", "frozen.json")
    for name in sorted(names):
        if name.endswith(".json") and name not in known:
            _attempt(found, item.path / name, lambda name=name: read_json(item.path / name))  # type: ignore[misc]
    comparison = item.path / "comparison.json"
    if comparison.name in names:
        _attempt(found, comparison, lambda: _comparison(comparison))
    for name in sorted(names_in(folder.compacted)) if "compacted" in names else ():
        path = folder.compacted / name
        _attempt(found, path, lambda path=path: _compacted(storage, path))  # type: ignore[misc]
        found.checked["compacted"] += 1
    for path in kept_tables(item.path):
        _attempt(found, path, lambda path=path: check_table(path))  # type: ignore[misc]
    if "study.json" in names:
        folder.read_study()
    elif "study.yaml" in names or comparison.name in names:
        raise StorageError(f"{item.path} must hold a resolved study, but has no study.json. Run the study again")


def _compacted(storage: Storage, path: StoragePath) -> None:
    """A file of copies is whole, and holds what the objects hold that it is of; those that are gone do not matter."""
    try:
        copies = unpack(read_bytes(path) or b"")
    except StorageError as error:
        raise StorageError(f"{path} is damaged, and is not used: {error}. Remove it") from error
    wrong = storage.runs.files.differing(copies)
    if wrong:
        raise StorageError(f"{path} must hold what it is a copy of, but does not of {', '.join(wrong[:3])}. Remove it")


def _comparison(path: StoragePath) -> None:
    value = read_json(path)
    if not isinstance(value, dict) or not str(value.get("format")).startswith("raystudy-comparison/"):
        raise StorageError(f"{path} must be a comparison, but is not. Make it anew with `raystudy compare`")


_LOOKS: dict[str, Callable[[Storage, Item, Verification], None]] = {
    "shards": _shards,
    "pointers": _pointer,
    "runs": _run,
    "studies": _study,
}
