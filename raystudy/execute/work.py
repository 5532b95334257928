"""A task on this machine: read shards, train its runs, leave a record of each. What a worker of any kind calls.

The worker writes the record itself, so that a finished run is safe whatever then happens to the driver.
"""

import gc
import platform
import socket
import time
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raystudy import __version__
from raystudy.artifacts.downstream import join_answers
from raystudy.artifacts.files import NO_ROOM, unwritable
from raystudy.artifacts.node_cache import take_fetched
from raystudy.artifacts.results import Record
from raystudy.artifacts.storage import open_storage
from raystudy.errors import DamagedError, NodeFullError, RaystudyError, StoppedError, UnwritableError
from raystudy.execute.decoder_work import make_decoder_run
from raystudy.execute.feature_work import make_feature_runs, numpy_versions
from raystudy.execute.made import Made
from raystudy.execute.probe_work import TextProbe, make_probes
from raystudy.execute.workplace import Workplace
from raystudy.specs.commission import Commission
from raystudy.specs.reading import Asked
from raystudy.specs.run import CommandRun, FeaturesProbe, FeaturesRun, ProbeRun, Run, TrainRun, read_run

MAX_FAILURES = 3  # of one run in one launch, unless its report says that it has been tried often enough
MAX_PREEMPTIONS = 20  # of one run in one launch: losses of its node, which are no failures, until it is given up


@dataclass(frozen=True)
class Task:
    """The unit that is scheduled: one or more runs, made in order, each leaving a record of its own.

    `runs` are specs as JSON; `validation` maps a set's digest to its name, `downstream` those of a downstream task's
    items. `asked` says of each run, as JSON, what it is to be read for besides its last weights; empty: of none
    anything. `recipe` and `model` are names for people; nothing depends on them. `group`: the engine, as JSON, of runs
    that several workers train together; empty for runs of one process. `notes`: what the records of runs it trains are
    to tell of how they came to be; `preemptions`: how often each run, by id, was cut short by the loss of a node in
    this launch. `num_devices`: GPUs, or CPU cores where it has none, that a run holds; of one process `cpus` and
    `gpus`, of which a share of one GPU is a share of its memory too.
    """

    runs: tuple[str, ...]
    storage: str
    validation: Mapping[str, str]
    device: str = "cpu"
    recipe: str = ""
    model: str = ""
    micro_batch_tokens: int | Literal["auto"] = "auto"
    checkpoint_minutes: float | None = None
    asked: tuple[str, ...] = ()
    downstream: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    notes: tuple[str, ...] = ()
    command: str = ""
    preemptions: Mapping[str, int] = field(default_factory=dict)
    num_devices: float = 1.0
    cpus: float = 1.0
    gpus: float = 0.0

    def asked_of(self) -> list[Asked]:
        """What the members are asked for, in their order."""
        return [Asked.model_validate_json(text) for text in self.asked] or [Asked()] * len(self.runs)

    def specs(self) -> list[Run]:
        """The members' specs."""
        return [read_run(run) for run in self.runs]

    def without(self, run_ids: Container[str]) -> "Task":
        """The task of those runs that are not among `run_ids`."""
        kept = [place for place, run in enumerate(self.specs()) if run.run_id not in run_ids]
        asked = tuple(self.asked[place] for place in kept) if self.asked else ()
        return replace(self, runs=tuple(self.runs[place] for place in kept), asked=asked)

    @property
    def task_id(self) -> str:
        """A name for queues and trials: that of the first member."""
        return read_run(self.runs[0]).run_id


@dataclass(frozen=True)
class RunReport:
    """How a run ended: its record's status, or "failed" with the first cause.

    `seconds`: the time it took on its device now; `is_made`: the run was made in them, from start to end.
    `is_unwritable`: the storage, or the only node's disk, cannot be written, so that trying on is of no use. `damaged`:
    the path of shards that are not what was written, which the driver makes anew. `note`: what a person should know of
    a run that ended well. `is_final`: it has been tried as often as it may be in one launch. `loss`: it was not made by
    no failure of its own: "preempted", its node was lost meanwhile; "node-full", its node's disk has no room for its
    data; "not-begun", another run of its task was cut short so. `num_preemptions`: so often it was begun again within
    its task. `tried_seconds`: what tries of it took before, after which its task began it again.
    `num_together`: of so many runs that one death of their worker made fail it is the first; 0: a further one.
    """

    run_id: str
    status: str
    num_tokens: int = 0
    seconds: float = 0.0
    cause: str = ""
    is_unwritable: bool = False
    damaged: str = ""
    is_made: bool = False
    note: str = ""
    is_final: bool = False
    loss: Literal["", "preempted", "node-full", "not-begun"] = ""
    num_preemptions: int = 0
    tried_seconds: float = 0.0
    num_together: int = 1


def do_task(task: Task) -> list[RunReport]:
    """Make every run of the task that has no record, and evaluate kept weights where only evaluations lack.

    Never raises for what a run may meet: a failure comes back as a report.

    Raises:
        StoppedError: a stop was asked for (train/stop_request.py).
    """
    if task.group:
        from raystudy.execute.groups import run_group

        return run_group(task)
    specs = task.specs()
    asked = task.asked_of()
    if task.device == "cuda" and any(isinstance(run, TrainRun | TextProbe) for run in specs):
        from raystudy.train.process import take_gpu_share

        take_gpu_share(task.gpus)
    reports = [_report(task, run, ask) for run, ask in zip(specs, asked, strict=True) if isinstance(run, TrainRun)]
    reports += [
        _report_command(task, run, ask) for run, ask in zip(specs, asked, strict=True) if isinstance(run, CommandRun)
    ]
    reports += _report_probes(task, [run for run in specs if isinstance(run, TextProbe)])
    reports += _report_features(task, [r for r in specs if isinstance(r, FeaturesRun | FeaturesProbe)])
    notes = take_fetched()
    return [replace(reports[0], note="; ".join(filter(None, (reports[0].note, *notes)))), *reports[1:]]


def reports_of(task: Task) -> Generator[RunReport, None, None]:
    """The same as they come: of a group's task each as its run ends, of others all at the end."""
    if not task.group:
        yield from do_task(task)
        return
    from raystudy.execute.groups import group_reports

    yield from group_reports(task)


def settle_process() -> None:
    """Once, after a worker's first task: what is loaded by then stays, and no later collection goes through it.

    A run begins with a collection, which else takes 0.1 s and more: as long as the smallest runs.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _report(task: Task, run: TrainRun, asked: Asked) -> RunReport:
    started = time.perf_counter()
    try:
        storage = open_storage(task.storage)
        storage.runs.mends = True
        means = (task.micro_batch_tokens, task.checkpoint_minutes, task.downstream)
        at = Workplace(storage, task.validation, task.device, about_task(task, {}, run.run_id), *means)
        status, is_made = make_decoder_run(run, at, asked)
    except StoppedError:
        raise
    except Exception as error:
        return failed_report(run.run_id, error, time.perf_counter() - started)
    told = (run.run_id, status, run.num_tokens, time.perf_counter() - started)
    return RunReport(*told, is_made=is_made and status in ("finished", "diverged"), note="; ".join(at.notes))


def _report_command(task: Task, run: CommandRun, asked: Asked) -> RunReport:
    from raystudy.execute.command import make_command_run

    started = time.perf_counter()
    try:
        storage = open_storage(task.storage)
        storage.runs.mends = True
        commission = Commission.model_validate_json(task.command)
        at = Workplace(storage, task.validation, task.device, about_task(task, {}, run.run_id))
        status, is_made = make_command_run(run, at, commission, asked)
    except StoppedError:
        raise
    except Exception as error:
        return failed_report(run.run_id, error, time.perf_counter() - started)
    told = (run.run_id, status, run.num_tokens, time.perf_counter() - started)
    return RunReport(*told, is_made=is_made and status in ("finished", "diverged"))


def _report_probes(task: Task, runs: list[TextProbe]) -> list[RunReport]:
    storage = open_storage(task.storage)
    storage.runs.mends = True
    return _report_made(runs, make_probes(runs, Workplace(storage, task.validation, task.device, about_task(task, {}))))


def _report_features(task: Task, runs: list[FeaturesRun | FeaturesProbe]) -> list[RunReport]:
    storage = open_storage(task.storage)
    storage.runs.mends = True
    return _report_made(runs, make_feature_runs(runs, storage, task.validation, about_task(task, numpy_versions())))


def _report_made(runs: Sequence[Run], ends: Iterable[Made]) -> list[RunReport]:
    """Reports of runs that are made together; those left when one fails have failed."""
    left, reports, started = {run.run_id: run for run in runs}, [], time.perf_counter()
    try:
        for made in ends:
            run = left.pop(made.run.run_id)
            if made.error is not None:
                reports.append(failed_report(run.run_id, made.error, made.seconds))
            else:
                told = (run.run_id, made.status, run.num_tokens, made.seconds)
                reports.append(RunReport(*told, is_made=made.is_made))
    except Exception as error:
        seconds = max(0.0, time.perf_counter() - started - sum(report.seconds for report in reports))
        reports += [failed_report(run_id, error, seconds / len(left)) for run_id in left]
    return reports


def attempt_of(run: str, report: RunReport) -> dict[str, Any]:
    """What an attempt says of a run that failed; `run`: its name for people."""
    return {"cause": report.cause, "run": run, "seconds": report.seconds + report.tried_seconds}


def failed_report(run_id: str, error: Exception, seconds: float = 0.0) -> RunReport:
    """The report of a run that met `error`."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        error = unwritable(error.filename or "a file", error)
    cause = str(error) if isinstance(error, RaystudyError) else f"{type(error).__name__}: {error}"
    is_node_full = isinstance(error, NodeFullError)
    is_unwritable = isinstance(error, UnwritableError) or is_node_full
    damaged = str(error.path) if isinstance(error, DamagedError) else ""
    loss: Literal["", "node-full"] = "node-full" if is_node_full else ""
    return RunReport(run_id, "failed", 0, seconds, cause, is_unwritable, damaged, loss=loss)


def lost_reports(task: Task, cause: str, seconds: float = 0.0) -> list[RunReport]:
    """Reports for a task whose node was lost: its first run without a record was cut short, the others not begun."""
    reports = failed_reports(task, cause, seconds)
    failed = [place for place, report in enumerate(reports) if report.status == "failed"]
    taken = sum(reports[place].seconds for place in failed)
    for place in failed:
        is_first = place == failed[0]
        told = ("preempted", taken) if is_first else ("not-begun", 0.0)
        reports[place] = replace(reports[place], loss=told[0], seconds=told[1])  # type: ignore[arg-type]
    return reports


def failed_reports(task: Task, cause: str, seconds: float = 0.0) -> list[RunReport]:
    """Reports for a task whose worker died before it could write any; members that have a record are no failures.

    Of the `seconds` that the task had gone on those that have a record bear what that says, the others an equal share.
    """
    ledger = open_storage(task.storage).runs
    reports, left = list[RunReport](), seconds
    for run, asked in zip(task.specs(), task.asked_of(), strict=True):
        record = ledger.read(run.run_id, task.validation, readings=asked.readings)
        if record is not None:
            record = join_answers(ledger, {run.run_id: record}, task.downstream)[run.run_id]
        if record is None or not _is_measured(run, record, task, asked):
            reports.append(RunReport(run.run_id, "failed", cause=cause))
        else:
            own = min(record.used_seconds - record.earlier_seconds, left)
            left -= own
            reports.append(RunReport(run.run_id, record.status, run.num_tokens, own))
    failed = [place for place, report in enumerate(reports) if report.status == "failed"]
    for place in failed:
        num_together = len(failed) if place == failed[0] else 0
        reports[place] = replace(reports[place], seconds=left / len(failed), num_together=num_together)
    return reports


def _is_measured(run: Run, record: Record, task: Task, asked: Asked) -> bool:
    if isinstance(run, ProbeRun):
        return True
    return record.is_measured(task.validation, run.settings.steps, asked.readings, task.downstream)


def about_task(task: Task, packages: Mapping[str, str], run_id: str = "") -> dict[str, Any]:
    """What is in the provenance of every record that the task leaves; of a run with `run_id` how often it was lost."""
    num_preemptions = task.preemptions.get(run_id, 0)
    return {
        "raystudy": __version__,
        "packages": {"python": platform.python_version(), **packages},
        "device": task.device,
        "num_devices": task.num_devices,
        "host": socket.gethostname(),
        **({"gpu_memory_share": task.gpus} if 0 < task.gpus < 1 else {}),
        **({"num_preemptions": num_preemptions} if num_preemptions else {}),
    }
