"""What a tracker is told of a finished run, and telling it of each run once. Reads the ledger; knows no tracker's API.

`studies/<name>/tracked/<tracker>-<digest>.json` holds the ids of the runs that a tracker has been told of. What is told
twice all the same (it was told, and the file not written any more) has the same id there, so that it is one run.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from raystudy.artifacts.files import StoragePath, read_json, write_json
from raystudy.artifacts.results import Record
from raystudy.artifacts.storage import StudyFolder
from raystudy.errors import StorageError
from raystudy.specs.base import Spec, canonical_json, digest
from raystudy.specs.point import changes_in_words
from raystudy.specs.run import ProbeRun
from raystudy.study.results import StudyResults
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave

FORMAT = "raystudy-tracked/1"
_KEEP_SECONDS = 1.0  # between writings of what was told


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    `metrics`: by name, those of a validation set as name/set. `curve`: rows of step and finite values by name, in the
    order of steps. `began`: seconds since 1970; `seconds`: how long it took.
    """

    run_id: str
    study: str
    name: str
    status: str
    parameters: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    curve: tuple[tuple[int, Mapping[str, float]], ...]
    began: float
    seconds: float


class Tracker(Protocol):
    """A connection to a tracker. Every method may raise what the tracker's own client does."""

    def known(self, study: str) -> set[str]:
        """Ids of the runs of a study that it has whole already, as far as it can tell."""

    def tell(self, run: TrackedRun) -> None:
        """Make one run there, or the same again."""

    def close(self) -> None:
        """Leave nothing behind that waits to be sent."""


def tracked_run(study: str, wanted: WantedRun, record: Record, curve: Iterable[Mapping[str, Any]]) -> TrackedRun:
    """What a tracker is told of a run with a record."""
    parameters: dict[str, str | int | float] = {"recipe": wanted.recipe, "model": wanted.model}
    parameters["kind"] = wanted.run.kind
    if isinstance(wanted.run, ProbeRun):
        parameters |= {"probe": wanted.run.probe, "detail": wanted.detail}
    else:
        parameters |= {"lr": wanted.run.settings.lr, "seed": wanted.run.seed, "steps": wanted.run.settings.steps}
        if wanted.changes:
            parameters["changes"] = ", ".join(changes_in_words(wanted.changes))
    metrics = {"num_tokens": float(record.result.get("num_tokens", 0)), "seconds": record.seconds}
    for row in record.result["metrics"]:
        place = row.get("dataset_name") or row["dataset"]
        metrics[f"{row['name']}/{place}" if place else row["name"]] = float(row["value"])
    rows = [
        (int(row["step"]), {f"train/{k}": v for k, v in row.items() if k != "step" and v is not None}) for row in curve
    ]
    return TrackedRun(
        run_id=wanted.run_id,
        study=study,
        name=str(wanted),
        status=record.status,
        parameters=parameters,
        metrics=metrics,
        curve=tuple(rows),
        began=_began(record),
        seconds=record.seconds,
    )


def _began(record: Record) -> float:
    try:
        return datetime.fromisoformat(record.result["provenance"]["started_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def tell_new(results: StudyResults, spec: Spec, kind: str, open_tracker: Callable[[], Tracker]) -> int:
    """Tell a tracker of every finished run of a study that it has not been told of; how many those were.

    The tracker is opened only where there is something to tell.
    """
    told = Told(results.folder, kind, spec)
    new = [(run, record) for run, record in _done(results) if run.run_id not in told.ids]
    if not new:
        return 0
    tracker = open_tracker()
    count = 0
    try:
        told.ids |= tracker.known(results.study.name)
        for run, record in new:
            if run.run_id not in told.ids:
                curve = results.storage.runs.read_curve(run.run_id)
                tracker.tell(tracked_run(results.study.name, run, record, curve))
                count += 1
                told.add(run.run_id)
        tracker.close()
    finally:
        told.keep()
    return count


def _done(results: StudyResults) -> Iterator[tuple[WantedRun, Record]]:
    for run in make_wave(results.state).wanted.values():
        record = results.state.record(run)
        if record is not None:
            yield run, record


class Told:
    """Ids of the runs that a tracker, with these settings, has been told of."""

    def __init__(self, folder: StudyFolder, kind: str, spec: Spec) -> None:
        self.path: StoragePath = folder.path / "tracked" / f"{kind}-{digest(spec)[:12]}.json"
        self._about = canonical_json(spec)
        self.ids = self._read()
        self._kept, self._is_kept = 0.0, True

    def _read(self) -> set[str]:
        try:
            value = read_json(self.path)
        except StorageError:  # torn: what is told again is the same run there
            return set()
        is_ours = isinstance(value, dict) and value.get("format") == FORMAT and isinstance(value.get("told"), list)
        return {str(run_id) for run_id in value["told"]} if is_ours else set()

    def add(self, run_id: str) -> None:
        """One more; written at most once a second."""
        self.ids.add(run_id)
        self._is_kept = False
        if time.monotonic() - self._kept >= _KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write it, with what another has written meanwhile."""
        if not self._is_kept:
            self.ids |= self._read()
            write_json(self.path, {"format": FORMAT, "tracker": self._about, "told": sorted(self.ids)})
            self._kept, self._is_kept = time.monotonic(), True
