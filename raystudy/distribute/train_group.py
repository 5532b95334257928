"""A task of several workers as runs of Ray Train, one after another until all its runs are made or given up.

Loaded in a Tune trial and in the processes that Ray Train starts, of which only the workers load torch. What is done
after a failure is decided by execute/attempts.py, as without Ray, so Ray Train itself tries again only where a node was
preempted. Its checkpoints are not used: the work finds its own on the storage, and passes over runs with a record.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raystudy.artifacts.files import storage_errors, writing_name
from raystudy.artifacts.storage import Storage
from raystudy.distribute.rank_backend import RankConfig, start_name, take_place
from raystudy.distribute.rank_errors import RankError, group_cause
from raystudy.errors import StorageError
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause, cause_of, first_cause, leave_cause
from raystudy.execute.groups import make_group_folder
from raystudy.execute.hang_watch import WatchThread, has_begun
from raystudy.execute.work import RunReport, Task, failed_reports
from raystudy.specs.engines import DeepSpeedEngine

GroupWork = Callable[[Task, Callable[[RunReport], None]], list[RunReport]]

_MOST_START_FAILURES = 3  # of workers that do not come up; Ray's own default tries for ever
# How long a collective may last: days, since a rank that hangs is found by the watch, and rank 0 may work alone long.
_PATIENCE_SECONDS = 7 * 86_400.0


def train_group(task: Task, number: int, work: GroupWork) -> list[RunReport]:
    """Make the runs of `task` with all workers of its group, each of which calls `work`.

    `number`: how often the task was tried before in this launch. With the number of a run of Ray Train in it that is
    part of the run's name, which Ray must never see twice: it would return what a run of that name returned before.
    """
    attempts, count = Attempts(task), 0
    while (left := attempts.left) is not None:
        started, num_before = time.monotonic(), len(attempts.reports)
        with _meeting_place(left) as folder:
            cause = _run(left, f"ref-{left.task_id}-a{number}.{count}", folder, work, attempts)
            begun = has_begun(_newest_start(folder))
        seconds = time.monotonic() - started - sum(report.seconds for report in attempts.reports[num_before:])
        if attempts.left is not None:
            cause = cause or Cause("lost", "the workers ended without a report")
            attempts.failed(cause, max(0.0, seconds), has_begun=begun)
        count += 1
    return attempts.reports


@contextmanager
def _meeting_place(task: Task) -> Iterator[Path]:
    """A folder that all ranks see, wherever they are; a launch removes it should its trial be killed."""
    folder = Storage(Path(task.storage)).runs.folder(task.task_id) / writing_name()
    with storage_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _folder_of_ray() -> Iterator[str]:
    """A fresh folder of this node for what Ray Train writes, which nobody reads."""
    folder = make_group_folder()
    try:
        yield os.path.realpath(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(task: Task, name: str, folder: Path, work: GroupWork, attempts: Attempts) -> Cause | None:
    """One run of Ray Train; None if it went to its end."""
    returned, cause = fit_group(task, name, folder, work)
    for report in _reports(folder, returned):
        attempts.made(report)
    if attempts.left is None:
        return None
    for report in failed_reports(attempts.left, ""):  # those with a record, should their reports be lost
        if report.status != "failed":
            attempts.made(report)
    return cause


def fit_group(task: Task, name: str, folder: Path, work: GroupWork) -> tuple[str | None, Cause | None]:
    """One run of Ray Train, all of whose workers call `work`; they leave beats and causes in `folder`, which all see.

    Returns:
        What rank 0 returned; the first cause, where the workers did not all end well.
    """
    engine = DeepSpeedEngine.model_validate_json(task.group)
    with _folder_of_ray() as of_ray:
        config = {"task": json.dumps(asdict(task)), "folder": str(folder), "work": work}
        trainer = _trainer(engine, config, name, of_ray)
        try:
            return getattr(trainer.fit(), "return_value", None), None
        except TrainingFailedError as error:
            failure = getattr(error, "controller_failure", None)
            if failure is not None:
                words = f"Ray Train could not start the workers: {str(failure).strip().splitlines()[0][:300]}"
                return None, Cause("refused", words)  # Ray Train has tried as often as it is to
            errors, told = dict(getattr(error, "worker_failures", {})), None
    with suppress(StorageError):
        told = first_cause(_newest_start(folder))
    return None, group_cause(told, errors, engine.workers)


def _newest_start(folder: Path) -> Path:
    """Where the workers left beats and causes when Ray Train started them last: after a preemption it does so again."""
    starts = sorted(folder.glob("start-*"))
    return starts[-1] if starts else folder


class _Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's, without the actor for Ray Data that it starts for each run whether there are any or not."""

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ != "DatasetsCallback"]


def _trainer(engine: DeepSpeedEngine, config: dict[str, Any], name: str, of_ray: str) -> DataParallelTrainer:
    resources = {"CPU": engine.cpus_per_worker} | ({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {})
    return _Trainer(
        on_worker,
        train_loop_config=config,
        backend_config=RankConfig(),
        scaling_config=ScalingConfig(
            num_workers=engine.workers, use_gpu=bool(engine.gpus_per_worker), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=of_ray,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_MOST_START_FAILURES),
        ),
    )


def _reports(folder: Path, returned: str | None) -> Iterator[RunReport]:
    """What rank 0 reported, as it went or at the end; a line cut short by its death is left out."""
    with suppress(OSError):
        for line in (folder / "reports.jsonl").read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield RunReport(**json.loads(line))
    for report in json.loads(returned) if returned else ():
        yield RunReport(**report)


def on_worker(config: dict[str, Any]) -> str | None:
    """What each worker does; rank 0 returns the reports as JSON.

    They are returned, and written as they come, but not given to `ray.train.report`: that waits for every rank, also
    for one that has failed.
    """
    from raystudy.reference.world import join

    task, folder = Task(**json.loads(config["task"])), Path(config["folder"])
    here = folder / start_name()
    with suppress(OSError):  # a folder that cannot be written: the work itself will say so
        here.mkdir(exist_ok=True)
    engine, meeting = DeepSpeedEngine.model_validate_json(task.group), take_place()
    rank, size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()

    def tell(report: RunReport) -> None:
        with suppress(OSError), (folder / "reports.jsonl").open("a") as file:
            file.write(json.dumps(asdict(report)) + "\n")

    with WatchThread(here, rank, size, 60 * engine.hang_minutes, thread=threading.get_ident()):
        try:
            join(engine.device, _PATIENCE_SECONDS, meeting=meeting)
            reports = config["work"](task, tell)
        except Exception as error:
            known = getattr(error, "cause", None)
            cause = known if isinstance(known, Cause) else cause_of(error, rank, "", 0, is_out_of_memory=False)
            with suppress(StorageError):
                leave_cause(here, cause)
            raise RankError.of(cause) from error
    return json.dumps([asdict(report) for report in reports]) if reports else None
