"""Which study uses which runs and shards of a storage, and what no study uses.

A study uses every run that its resolved copy wants, given the records (sweeps and later waves included), and the shards
that its data were built into. Only the last resolved copy is kept: runs that only an earlier edit of its file wanted
count as unused. Reads the storage; removes nothing.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raystudy.artifacts.files import StoragePath, exists, names_in, read_many
from raystudy.artifacts.sealed import open_sealed
from raystudy.artifacts.shards import shard_folder
from raystudy.artifacts.storage import Storage, StudyFolder
from raystudy.artifacts.usage import Item, inventory, pointer_target
from raystudy.errors import RaystudyError
from raystudy.study.results import StudyResults, read_frozen
from raystudy.study.waves import make_wave

FORMAT = "raystudy-usage/1"
CONVENTION = (
    "a study uses what its last resolved copy wants: runs that only an earlier edit of its file wanted count as unused"
)


@dataclass(frozen=True)
class StudyUse:
    """What one study uses; `problem` says why that cannot be known, `note` what was assumed."""

    name: str
    runs: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class Usage:
    """The items of a storage, and what each study uses."""

    root: StoragePath
    items: tuple[Item, ...]
    studies: tuple[StudyUse, ...]

    @cached_property
    def users(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """Names of the studies that use an item, by its kind and name."""
        found: dict[tuple[str, str], tuple[str, ...]] = {}
        for item in self.items:
            if item.kind in ("left-over", "foreign"):
                continue
            name = pointer_target(item) if item.kind == "pointers" else item.name
            found[item.kind, item.name] = tuple(study.name for study in self.studies if _uses(study, item.kind, name))
        return found

    @property
    def unused(self) -> list[Item]:
        """What no study uses, pointers first, and what is left over; never what is foreign."""
        found = [item for item in self.items if item.kind != "foreign" and not self.users.get((item.kind, item.name))]
        return sorted(found, key=lambda item: item.kind != "pointers")

    @property
    def foreign(self) -> list[Item]:
        """What raystudy did not put there."""
        return [item for item in self.items if item.kind == "foreign"]

    @property
    def problems(self) -> list[str]:
        """Why it cannot be known what some studies use."""
        return [f"{study.name}: {study.problem}" for study in self.studies if study.problem]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. What several studies use is counted once, under `shared`."""
        kinds: dict[str, dict[str, int]] = {}
        for item in self.items:
            row = kinds.setdefault(item.kind, {"count": 0, "bytes": 0})
            row["count"], row["bytes"] = row["count"] + 1, row["bytes"] + item.num_bytes
            for part, size in item.parts.items() if item.kind == "runs" else ():
                row[f"{part}_bytes"] = row.get(f"{part}_bytes", 0) + size
        users = [(item, self.users.get((item.kind, item.name), ())) for item in self.items]
        return {
            "format": FORMAT,
            "storage": str(self.root),
            "kinds": kinds,
            "studies": [
                {
                    "name": study.name,
                    **_summed(item for item, by in users if by == (study.name,)),
                    "shared_bytes": sum(item.num_bytes for item, by in users if study.name in by and len(by) > 1),
                    "problem": study.problem or None,
                    "note": study.note or None,
                }
                for study in self.studies
            ],
            "shared": _summed(item for item, by in users if len(by) > 1),
            "unused": _summed(self.unused),
            "convention": CONVENTION,
        }


def _summed(items: Iterable[Item]) -> dict[str, int]:
    chosen = list(items)
    counts = {f"num_{kind}": sum(item.kind == kind for item in chosen) for kind in ("runs", "shards", "left-over")}
    return {**counts, "bytes": sum(item.num_bytes for item in chosen)}


def _uses(study: StudyUse, kind: str, name: str | None) -> bool:
    if kind == "studies":
        return name == study.name
    return name in (study.runs if kind == "runs" else study.shards)


def read_usage(storage: Storage) -> Usage:
    """What lies on the storage and who uses it.

    Raises:
        StorageError: the storage cannot be read.
    """
    items = tuple(inventory(storage.root))
    runs = [item for item in items if item.kind == "runs"]
    studies = tuple(_use_of(storage, item, runs) for item in items if item.kind == "studies")
    return Usage(storage.root, items, studies)


def study_folder(storage: Storage, path: StoragePath) -> StudyFolder:
    """The folder of a study at `path`, whatever its study is called."""
    return StudyFolder.at(storage.root, path)


def _use_of(storage: Storage, item: Item, runs: list[Item]) -> StudyUse:
    if {"study.yaml", "comparison.json", "study.json"}.isdisjoint(names_in(item.path)):
        return StudyUse(item.name, note="it has not been run yet")
    try:
        results = StudyResults(storage, study_folder(storage, item.path))
        wave = make_wave(results.state)
        inputs = results.inputs
        data = {*inputs.shards.values(), *inputs.validation.values(), *inputs.tasks.values()}
        shards = data | {part for shard in data for part in _parts(storage.root, shard)}
    except (RaystudyError, KeyError) as error:
        return StudyUse(item.name, problem=f"what it uses cannot be known: {error}")
    wanted, note = set(wave.wanted), ""
    if wave.todo or wave.waiting:
        trained_on = _shards_of([run for run in runs if run.name not in wanted])
        # Later waves, and a sweep's further points, are named by results that are not there.
        wanted |= {name for name, shards in trained_on.items() if shards in data | {None}}
        note = "some of its runs are missing, so every run on its data counts as used"
    return StudyUse(item.name, frozenset(wanted), frozenset(shards), note=note)


def _parts(root: StoragePath, shard: str) -> set[str]:
    """The token shards that a view reads; none for shards of other kinds, or that are not there."""
    folder = shard_folder(root, shard)
    if not exists(folder):
        return set()
    sources = open_sealed(folder, verify=False).get("sources", ())
    return {part["shard"] for source in sources for part in source["parts"]}


def _shards_of(runs: list[Item]) -> dict[str, str | None]:
    """By run, the digest of the shards that it trained on; None where neither its spec nor its result says."""
    found: dict[str, str | None] = dict.fromkeys(run.name for run in runs)
    for name, parents in (("spec.json", ()), ("result.json", ("spec",))):
        lacking = [run for run in runs if found[run.name] is None]
        contents = read_many([run.path / name for run in lacking])
        for run, content in zip(lacking, contents, strict=True):
            with suppress(ValueError, KeyError, TypeError):
                value = json.loads(content or b"")
                for parent in parents:
                    value = value[parent]
                found[run.name] = str(value["shards"])
    return found


def frozen_problems(storage: Storage) -> list[str]:
    """A line for every study whose frozen rates and shards are not what was written."""
    problems = []
    for item in inventory(storage.root):
        if item.kind == "studies":
            try:
                read_frozen(StudyFolder(storage.root, item.name))
            except RaystudyError as error:
                problems.append(str(error))
    return problems
