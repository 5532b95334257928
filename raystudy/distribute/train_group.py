"""A task of several workers as runs of Ray Train, one after another until all its runs are made or given up.

Loaded in a Tune trial and in the processes that Ray Train starts, of which only the workers load torch. What is done
after a failure is decided by execute/attempts.py, as without Ray, so Ray Train itself tries again only where a node was
preempted. Its checkpoints are not used: the work finds its own on the storage, and passes over runs with a record.
"""

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.storage import open_storage
from raystudy.distribute.cluster_nodes import NODE_LABEL, cluster_of
from raystudy.distribute.group_folder import (
    leave_report,
    meeting_place,
    newest_start,
    note_start,
    preemptions_in,
    reports_in,
)
from raystudy.distribute.group_places import num_groups
from raystudy.distribute.node_loss import settled
from raystudy.distribute.rank_backend import RankConfig, start_name, take_place
from raystudy.distribute.rank_errors import RankError, group_cause
from raystudy.errors import NodeFullError, StorageError
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause, cause_of, first_cause, leave_cause
from raystudy.execute.groups import make_group_folder
from raystudy.execute.hang_watch import WatchThread, has_begun
from raystudy.execute.shapes import shape_of
from raystudy.execute.work import MAX_PREEMPTIONS, RunReport, Task, failed_reports
from raystudy.specs.engines import DeepSpeedEngine

GroupWork = Callable[[Task, Callable[[RunReport], None]], list[RunReport]]

_LOOK_SECONDS = 1.0  # between looks at what rank 0 has reported
_MOST_START_FAILURES = 3  # of workers that do not come up; Ray's own default tries for ever
# How long a collective may last: days, since a rank that hangs is found by the watch, and rank 0 may work alone long.
_PATIENCE_SECONDS = 7 * 86_400.0


def train_group(
    task: Task,
    number: int,
    work: GroupWork,
    *,
    tell: Callable[[RunReport], None] = lambda _: None,
    avoid: Collection[str] = (),
) -> list[RunReport]:
    """Make the runs of `task` with all workers of its group, each of which calls `work`.

    Args:
        task: its runs are made in order.
        number: how often the task was tried before in this launch. That is part of the names of its runs of Ray Train,
            with what is drawn here: Ray must never see one twice, it would return what a run of that name returned.
        work: as `execute.rank.make_on_rank`.
        tell: gets each report as soon as its run has ended.
        avoid: ids of nodes to place no workers on; those whose disk turns out to be full join them, at most
            MAX_PREEMPTIONS.

    Returns:
        All reports.
    """
    attempts, count, drawn, full = Attempts(task), 0, secrets.token_hex(4), set(avoid)
    while (left := attempts.left) is not None:
        started, num_before = time.monotonic(), len(attempts.reports)
        with meeting_place(left) as folder:
            trying = _Trying(folder, attempts, tell)
            cause = _run(left, f"ref-{left.task_id}-{drawn}-a{number}.{count}", trying, work, full)
            begun = has_begun(newest_start(folder))
            attempts.begun_again(preemptions_in(folder))
        seconds = time.monotonic() - started - sum(report.seconds for report in attempts.reports[num_before:])
        if attempts.left is not None:
            cause = cause or Cause("died", "the workers ended without a report")
            if not _may_move_on(cause, left, full, len(avoid) + MAX_PREEMPTIONS):
                attempts.failed(cause, max(0.0, seconds), has_begun=begun)
        count += 1
        trying.tell_new()
    return attempts.reports


def _may_move_on(cause: Cause, task: Task, full: set[str], most: int) -> bool:
    """Whether the disk of a node is full and others can hold the group; that node is then avoided.

    Not from more than `most` nodes: a cluster that grows may come to have ever new ones that are full.
    """
    if cause.kind != "node-full" or not cause.node or cause.node in full or len(full) >= most:
        return False
    full.add(cause.node)
    return num_groups(shape_of(task), cluster_of(ray, full).possible) > 0


class _Trying:
    """What comes of a run of Ray Train while it goes on, by the files that rank 0 leaves in `folder`."""

    def __init__(self, folder: StoragePath, attempts: Attempts, tell: Callable[[RunReport], None]) -> None:
        self.folder, self.attempts, self._tell = folder, attempts, tell
        self._num_told = len(attempts.reports)

    def tell_new(self) -> None:
        """Tell of runs that have ended since."""
        for report in self.attempts.reports[self._num_told :]:
            self._num_told += 1
            self._tell(report)

    def look(self) -> None:
        """Take in what rank 0 has reported since, and tell it."""
        with suppress(StorageError):  # what cannot be read now may be later, at last from what Ray Train returns
            for report in reports_in(self.folder):
                self.attempts.made(report)
        self.tell_new()

    def until(self, thread: threading.Thread) -> None:
        """Look again and again until the thread has ended."""
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            self.look()


@contextmanager
def _folder_of_ray() -> Iterator[str]:
    """A fresh folder of this node for what Ray Train writes, which nobody reads."""
    folder = make_group_folder()
    try:
        yield os.path.realpath(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(task: Task, name: str, trying: _Trying, work: GroupWork, avoid: Collection[str]) -> Cause | None:
    """One run of Ray Train; None if it went to its end."""
    returned, cause = fit_group(task, name, trying.folder, work, avoid=avoid, until=trying.until)
    attempts = trying.attempts
    for report in json.loads(returned) if returned else ():
        attempts.made(RunReport(**report))
    if attempts.left is None:
        return None
    for report in failed_reports(attempts.left, ""):  # those with a record, should their reports be lost
        if report.status != "failed":
            attempts.made(report)
    return cause


def fit_group(
    task: Task,
    name: str,
    folder: StoragePath,
    work: GroupWork,
    *,
    avoid: Collection[str] = (),
    until: Callable[[threading.Thread], None] = threading.Thread.join,
) -> tuple[str | None, Cause | None]:
    """One run of Ray Train, all of whose workers call `work`; they leave beats and causes in `folder`, which all see.

    Args:
        task: what all workers get.
        name: never used before.
        folder: on a storage that all nodes see.
        work: as `execute.rank.make_on_rank`.
        avoid: ids of nodes to place no workers on.
        until: waits for the thread in which Ray Train runs.

    Returns:
        What rank 0 returned; the first cause, where the workers did not all end well.
    """
    engine = DeepSpeedEngine.model_validate_json(task.group)
    with _folder_of_ray() as of_ray:
        config = {"task": json.dumps(asdict(task)), "folder": str(folder), "work": work}
        fit = _Fit(_trainer(engine, config, name, of_ray, avoid))
        fit.start()
        until(fit)
    if fit.unknown is not None:
        raise fit.unknown
    if fit.is_well:
        return fit.returned, None
    told = fit.refusal
    with suppress(StorageError):
        told = told or first_cause(newest_start(folder))
    lost = next((rank for rank, error in sorted(fit.errors.items()) if settled(ray, error)), None)
    if lost is not None:
        return None, Cause("preempted", f"the node of worker {lost} of {engine.workers} was lost", lost)
    return None, group_cause(told, fit.errors, engine.workers)


class _Fit(threading.Thread):
    """A run of Ray Train in a thread.

    `is_well`: it ended well; `returned`: by rank 0; `errors`: of ranks; `refusal`: the workers could not be started;
    `unknown`: an error that is none of Ray Train's.
    """

    def __init__(self, trainer: DataParallelTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.is_well = False
        self.returned: str | None = None
        self.errors: dict[int, BaseException] = {}
        self.refusal: Cause | None = None
        self.unknown: Exception | None = None

    def run(self) -> None:
        """To its end."""
        try:
            self.returned = getattr(self._trainer.fit(), "return_value", None)
            self.is_well = True
        except TrainingFailedError as error:
            self.errors = dict(getattr(error, "worker_failures", {}))
            failure = getattr(error, "controller_failure", None)
            if failure is not None:
                words = f"Ray Train could not start the workers: {str(failure).strip().splitlines()[0][:300]}"
                self.refusal = Cause("refused", words)  # Ray Train has tried as often as it is to
        except Exception as error:
            self.unknown = error


class _Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's, without the actor for Ray Data that it starts for each run whether there are any or not."""

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ != "DatasetsCallback"]


def _trainer(
    engine: DeepSpeedEngine, config: dict[str, Any], name: str, of_ray: str, avoid: Collection[str]
) -> DataParallelTrainer:
    has_limit = any(
        field.name == "max_preemption_failures" for field in fields(FailureConfig)
    )  # Ray before 2.60 may not
    mended = {"max_preemption_failures": MAX_PREEMPTIONS} if has_limit else {}
    resources = {"CPU": engine.cpus_per_worker} | ({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {})
    return _Trainer(
        on_worker,
        train_loop_config=config,
        backend_config=RankConfig(),
        scaling_config=ScalingConfig(
            num_workers=engine.workers,
            use_gpu=bool(engine.gpus_per_worker),
            resources_per_worker=resources,
            label_selector={NODE_LABEL: f"!in({','.join(sorted(avoid))})"} if avoid else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=of_ray,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_MOST_START_FAILURES, **mended),
        ),
    )


def on_worker(config: dict[str, Any]) -> str | None:
    """What each worker does; rank 0 returns the reports as JSON.

    They are returned, and left in `folder` as they come, but not given to `ray.train.report`: that waits for every
    rank, also for one that has failed.
    """
    from raystudy.reference.world import join

    task, folder = Task(**json.loads(config["task"])), open_storage(config["folder"]).root
    here = folder / start_name()
    engine, meeting = DeepSpeedEngine.model_validate_json(task.group), take_place()
    rank, size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()

    def tell(report: RunReport) -> None:
        leave_report(folder, report)

    if rank == 0:
        with suppress(StorageError):
            task = note_start(folder, here, task)
    with WatchThread(here, rank, size, 60 * engine.hang_minutes, thread=threading.get_ident()):
        try:
            join(engine.device, _PATIENCE_SECONDS, meeting=meeting)
            reports = config["work"](task, tell)
            full = next((report for report in reports if report.loss == "node-full"), None)
            if full is not None:
                raise NodeFullError(full.cause)
        except Exception as error:
            known = getattr(error, "cause", None)
            cause = known if isinstance(known, Cause) else cause_of(error, rank, "", 0, is_out_of_memory=False)
            if cause.kind == "node-full":
                cause = replace(cause, node=ray.get_runtime_context().get_node_id())
            with suppress(StorageError):
                leave_cause(here, cause)
            raise RankError.of(cause) from error
    return json.dumps([asdict(report) for report in reports]) if reports else None
