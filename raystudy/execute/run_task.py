"""Makes tasks that `plan --emit` wrote, in this process, as a worker would; and leaves what else the driver would.

Records are the workers' own: the first result wins, runs that have one are left. A failure is written as an attempt,
for nobody else is there to write it. A stop that is asked for ends it at a run's next step.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from raystudy.artifacts.records import failures_among
from raystudy.artifacts.storage import SHARED, open_storage
from raystudy.errors import IncompleteError, SpecError, StoppedError, StorageError, UnwritableError
from raystudy.execute.inputs import need_packages
from raystudy.execute.losses import leave_tries
from raystudy.execute.progress import Progress
from raystudy.execute.work import MAX_FAILURES, RunReport, Task, attempt_of, failed_reports, reports_of
from raystudy.specs.run import CommandRun, TrainRun
from raystudy.study.wanted import WantedRun
from raystudy.train import stop_request

_FIELDS = {each.name for each in fields(Task)}
_NO_MINUTES = 1e12  # between checkpoints: only the one before a stop


@dataclass(frozen=True)
class EmittedTask:
    """A task, and its runs under the names that people know them by.

    `failures`: how often each run, by id, had failed when the task was written.
    """

    task: Task
    runs: tuple[WantedRun, ...]
    failures: Mapping[str, int] = field(default_factory=dict)


def read_tasks(path: Path) -> list[EmittedTask]:
    """All tasks in a file, one JSON object a line.

    Raises:
        SpecError: the file cannot be read, or holds something else.
    """
    return [_read(line, where) for where, line in _lines(path)]


def read_job(path: Path, index: int, count: int) -> list[EmittedTask]:
    """The tasks that job `index` of an array makes, `count` each; the other lines are not looked at.

    Raises:
        SpecError: as `read_tasks`, or the array has no such job.
    """
    lines = _lines(path)
    num_jobs = -(-len(lines) // count) if count > 0 else 0
    if not 0 <= index < num_jobs:
        raise SpecError(
            f"--index must be one of the {num_jobs} jobs (from 0) that {path} holds with --count {count}, but got "
            f"{index}. Take the array's bounds from the script beside it"
        )
    return [_read(line, where) for where, line in lines[index * count : (index + 1) * count]]


def _lines(path: Path) -> list[tuple[str, str]]:
    """Every line of a file that is not empty, and where it stands."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise SpecError(
            f"a file of tasks must be there, but {path}: {told}. `raystudy plan --emit` writes it"
        ) from error
    return [(f"line {number} of {path}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _read(line: str, where: str) -> EmittedTask:
    try:
        value = dict(json.loads(line))
        members: list[Any] = value.pop("members", [])
        unknown = sorted(value.keys() - _FIELDS)
        if unknown:
            raise ValueError(f"unknown keys: {', '.join(unknown)}")
        listed = {key: tuple(value[key]) for key in ("runs", "asked", "notes") if key in value}
        task = Task(**{**value, **listed})
        specs = task.specs()
        task.asked_of()
        if not specs:
            raise ValueError("it has no runs")
        members = members or [{"recipe": task.recipe, "model": task.model}] * len(specs)
        runs = tuple(
            WantedRun(run, str(about["recipe"]), str(about["model"]), str(about.get("detail", "")), _changes(about))
            for run, about in zip(specs, members, strict=True)
        )
        failures = {run.run_id: int(about.get("num_failures", 0)) for run, about in zip(specs, members, strict=True)}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"{where} must be a task as `raystudy plan --emit` writes it, but is not ({first})") from error
    return EmittedTask(task, runs, failures)


def _changes(about: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    given = about.get("changes", ())
    return tuple((str(axis), tuple(value) if isinstance(value, list) else value) for axis, value in given)


def make_emitted(tasks: Sequence[EmittedTask], progress: Progress) -> Counter[str]:
    """Make every run of `tasks` that has no result; how many ended in each way.

    Runs are left that have failed since their task was written, and that in this job before it was put back into the
    queue, or MAX_FAILURES times in all.

    Raises:
        StoppedError: a stop was asked for; all that ended before is kept.
        StorageError: the storage is not there.
        UnwritableError: it cannot be written.
        IncompleteError: some runs failed; the others are made.
    """
    for task in tasks:
        _see_place(task.task)
    total = sum(len(task.runs) for task in tasks)
    progress.start(f"{len(tasks)} tasks", total, sum(run.flops for task in tasks for run in task.runs))
    ended: Counter[str] = Counter()
    causes: dict[str, str] = {}
    try:
        for emitted in tasks:
            by_id = {run.run_id: run for run in emitted.runs}
            left = left_alone(emitted)
            causes.update((str(by_id[run_id]), cause) for run_id, cause in left.items())
            for report in _reports(emitted.task.without(left)):
                run = by_id[report.run_id]
                ended[report.status] += 1
                progress.run_ended(run, report)
                if report.is_unwritable:
                    raise UnwritableError(report.cause)
                if report.status == "failed":
                    causes[str(run)] = report.cause
                    leave_attempt(emitted.task, run, report)
                else:
                    leave_tries(open_storage(emitted.task.storage).runs, run, report)
    except StoppedError as error:
        num_made = ended.total() - ended["failed"]
        raise StoppedError(
            f"{error}: {num_made} of {total} runs have their results, and the one in progress has a checkpoint if it "
            f"takes steps. The same command goes on there"
        ) from error
    if causes:
        lines = [f"  {run}: {cause}" for run, cause in causes.items()]
        raise IncompleteError(
            "all runs of a task must have a result, but these failed. The next wave of the study tries them again, "
            f"up to {MAX_FAILURES} times\n" + "\n".join(lines)
        )
    return ended


def leave_attempt(task: Task, run: WantedRun, report: RunReport) -> None:
    """Write what the driver of a launch would of a run that failed, and in which job of Slurm that was."""
    job = {"job": slurm_job()} if slurm_job() else {}
    open_storage(task.storage).runs.write_attempt(run.run_id, {**attempt_of(str(run), report), **job})


def slurm_job() -> str:
    """What Slurm calls this process's job, the same after it was put back into the queue; empty where it is none."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def left_alone(emitted: EmittedTask) -> dict[str, str]:
    """Runs without a result, by id, that are not tried again here, with their last cause."""
    ledger, job, found = open_storage(emitted.task.storage).runs, slurm_job(), dict[str, str]()
    with ledger.files.together(len(emitted.runs)):
        for run in emitted.runs:
            failures = failures_among(ledger.read_attempts(run.run_id))
            is_new = len(failures) > emitted.failures.get(run.run_id, 0)
            of_this_job = bool(job) and any(failure.get("job") == job for failure in failures)
            if is_new and (of_this_job or len(failures) >= MAX_FAILURES):
                found[run.run_id] = str(failures[-1].get("cause", "unknown"))
    others = emitted.task.without({run.run_id for run in emitted.runs} - found.keys())
    unmade = {report.run_id for report in failed_reports(others, "") if report.status == "failed"} if found else set()
    return {run_id: cause for run_id, cause in found.items() if run_id in unmade}


def _see_place(task: Task) -> None:
    """See that what the task needs is here, before it costs an attempt."""
    if "://" not in task.storage and not Path(task.storage).is_dir():
        raise StorageError(
            f"the storage must be the same folder on all nodes, but {task.storage} is none here. Mount it, or name it "
            f"as it is called here with --storage; or use {SHARED}"
        )
    if task.group:
        need_packages("torch", "deepspeed", extra="deepspeed", use="to train by several workers")
    elif any(isinstance(run, TrainRun) for run in task.specs()):
        need_packages("torch")


def _reports(task: Task) -> Iterator[RunReport]:
    """As `reports_of`, each run that takes long a part of its own, so that a stop loses no report."""
    minutes = _NO_MINUTES if task.checkpoint_minutes is None else task.checkpoint_minutes
    for part in _parts(replace(task, checkpoint_minutes=minutes)):
        stop_request.raise_if_requested()
        yield from reports_of(part)


def _parts(task: Task) -> list[Task]:
    """Runs that are made one by one; then those that are made together."""
    if task.group or not task.runs:
        return [task] if task.runs else []
    specs = task.specs()
    alone = [run.run_id for run in specs if isinstance(run, TrainRun | CommandRun)]
    others = {run.run_id for run in specs} - set(alone)
    parts = [task.without({run.run_id for run in specs} - {run_id}) for run_id in alone]
    return [*parts, *([task.without(alone)] if others else [])]
