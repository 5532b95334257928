"""A task on this machine: read shards, train its runs, leave a record of each. What a worker of any kind calls.

The worker writes the record itself, so that a finished run is safe whatever then happens to the driver.
"""

import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raystudy import __version__
from raystudy.artifacts.downstream import join_answers, lacking_answers
from raystudy.artifacts.files import NO_ROOM, unwritable
from raystudy.artifacts.records import Record
from raystudy.artifacts.storage import Storage
from raystudy.errors import DamagedError, RaystudyError, UnwritableError
from raystudy.execute.decoder_work import Workplace, make_decoder_run
from raystudy.execute.feature_work import make_feature_runs, numpy_versions
from raystudy.specs.run import FeaturesRun, ProbeRun, Run, TrainRun, read_run


@dataclass(frozen=True)
class Task:
    """The unit that is scheduled: one or more runs, made in order, each leaving a record of its own.

    `runs` are specs as JSON; `validation` maps a set's digest to its name, `downstream` those of a downstream task's
    items. `recipe` and `model` are names for people; nothing depends on them.
    """

    runs: tuple[str, ...]
    storage: str
    validation: Mapping[str, str]
    device: str = "cpu"
    recipe: str = ""
    model: str = ""
    downstream: Mapping[str, str] = field(default_factory=dict)

    def specs(self) -> list[Run]:
        """The members' specs."""
        return [read_run(run) for run in self.runs]

    @property
    def task_id(self) -> str:
        """A name for queues and trials: that of the first member."""
        return self.specs()[0].run_id


@dataclass(frozen=True)
class RunReport:
    """How a run ended: its record's status, or "failed" with the first cause.

    `is_unwritable`: the storage cannot be written, so that trying on is of no use. `damaged`: the path of shards that
    are not what was written, which the driver makes anew.
    """

    run_id: str
    status: str
    num_tokens: int = 0
    seconds: float = 0.0
    cause: str = ""
    is_unwritable: bool = False
    damaged: str = ""


def do_task(task: Task) -> list[RunReport]:
    """Make every run of the task that has no record, and evaluate kept weights where only evaluations lack.

    Never raises for what a run may meet: a failure comes back as a report.
    """
    specs = task.specs()
    reports = [_report(task, run) for run in specs if isinstance(run, TrainRun)]
    return [*reports, *_report_features(task, [run for run in specs if not isinstance(run, TrainRun)])]


def _report(task: Task, run: TrainRun) -> RunReport:
    started = time.perf_counter()
    try:
        storage = Storage(Path(task.storage))
        storage.runs.mends = True
        at = Workplace(storage, task.validation, task.device, _about(task, {}), task.downstream)
        status = make_decoder_run(run, at)
    except Exception as error:
        return _failed(run.run_id, error, time.perf_counter() - started)
    return RunReport(run.run_id, status, run.num_tokens, time.perf_counter() - started)


def _report_features(task: Task, runs: list[FeaturesRun | ProbeRun]) -> list[RunReport]:
    storage = Storage(Path(task.storage))
    storage.runs.mends = True
    left, reports = {run.run_id: run for run in runs}, []
    try:
        for run, status, seconds in make_feature_runs(runs, storage, task.validation, _about(task, numpy_versions())):
            del left[run.run_id]
            reports.append(RunReport(run.run_id, status, run.num_tokens, seconds))
    except Exception as error:
        reports += [_failed(run_id, error) for run_id in left]
    return reports


def _failed(run_id: str, error: Exception, seconds: float = 0.0) -> RunReport:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        error = unwritable(error.filename or "a file", error)
    cause = str(error) if isinstance(error, RaystudyError) else f"{type(error).__name__}: {error}"
    is_unwritable = isinstance(error, UnwritableError)
    damaged = str(error.path) if isinstance(error, DamagedError) else ""
    return RunReport(run_id, "failed", 0, seconds, cause, is_unwritable, damaged)


def failed_reports(task: Task, cause: str) -> list[RunReport]:
    """Reports for a task whose worker died before it could write any; members that have a record are no failures."""
    ledger = Storage(Path(task.storage)).runs
    reports = []
    for run in task.specs():
        record = ledger.read(run.run_id, task.validation)
        if record is not None:
            record = join_answers(ledger, {run.run_id: record}, task.downstream)[run.run_id]
        if record is None or not _is_measured(run, record, task):
            reports.append(RunReport(run.run_id, "failed", cause=cause))
        else:
            reports.append(RunReport(run.run_id, record.status, run.num_tokens, record.device_seconds))
    return reports


def _is_measured(run: Run, record: Record, task: Task) -> bool:
    if isinstance(run, ProbeRun) or record.status != "finished":
        return True
    has_losses = all(record.metric("loss", dataset) is not None for dataset in task.validation)
    return has_losses and not lacking_answers(record.metrics, task.downstream)


def _about(task: Task, packages: Mapping[str, str]) -> dict[str, Any]:
    return {
        "raystudy": __version__,
        "packages": {"python": platform.python_version(), **packages},
        "device": task.device,
        "host": socket.gethostname(),
    }
