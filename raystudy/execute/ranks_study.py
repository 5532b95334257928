"""All missing runs of a study's model by the ranks that a launcher has started: without Ray, as on Slurm.

Rank 0 is the study's driver: it holds the study, builds its data and plans its waves as `raystudy run` does, and tells
the others what to make. The engine's number of workers must be that of the ranks.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from raystudy.artifacts.files import StoragePath, remove_folder, storage_errors, writing_name
from raystudy.artifacts.storage import Storage, locate_storage, open_storage
from raystudy.errors import RaystudyError, SpecError, StorageError
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause
from raystudy.execute.hang_watch import WatchThread
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.rank import GroupEndedError, make_on_rank
from raystudy.execute.utilisation import Devices
from raystudy.execute.work import RunReport, Task
from raystudy.reference.world import World, join, leave
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.load import LoadedStudy, load_study
from raystudy.specs.run import TrainRun
from raystudy.study.chosen import Chosen


def make_study_on_rank(options: argparse.Namespace, patience_seconds: float) -> int:
    """Make the runs that `options` choose; the exit status, the same on all ranks.

    Raises:
        RaystudyError: on rank 0: the study, the choice or the storage are wrong, or some wanted runs have no result.
    """
    loaded = load_study(Path(options.study), options.overrides)
    engine = _engine(loaded, options)
    world = join(engine.device, patience_seconds)
    if world.size != engine.workers:
        raise SpecError(
            f"models.{options.model}.engine.workers must be the number of ranks that the launcher started, but is "
            f"{engine.workers} and there are {world.size}. Start {engine.workers}, or add "
            f"--set models.{options.model}.engine.workers={world.size}"
        )
    error: RaystudyError | None = None
    if world.rank == 0:
        error = _lead(loaded, options, engine, world)
        status = 0 if error is None else error.exit_status
        world.broadcast({"status": status})
    else:
        status = _follow(engine, world)
    leave(world)
    if error is not None:
        raise error
    return status


def _engine(loaded: LoadedStudy, options: argparse.Namespace) -> DeepSpeedEngine:
    engines = loaded.spec.deepspeed_engines()
    if options.model not in engines:
        known = ", ".join(engines) or "none"
        raise SpecError(f"--model must name a model of engine deepspeed ({known}), but got {options.model!r}")
    return engines[options.model]


def _lead(
    loaded: LoadedStudy, options: argparse.Namespace, engine: DeepSpeedEngine, world: World
) -> RaystudyError | None:
    """Drive the study on rank 0; what a person must mend, or None where nothing is missing."""
    try:
        storage = locate_storage(options.storage, loaded)
        chosen = Chosen(options.model, options.recipe, options.lr, options.seed)
        executor = _RanksExecutor(world, engine, storage, loaded.spec.name)
        done = run_study(loaded, storage, lambda: executor, Progress(), chosen=chosen)
        if not done.num_wanted and not done.waiting:
            raise SpecError(
                f"some run that {loaded.spec.name!r} wants now must be of {chosen}, but none is. See raystudy plan"
            )
        print(f"{done.name}: {done.num_made} runs made, {done.num_done_before} were done, {done.num_wanted} wanted")
        done.raise_if_incomplete()
    except RaystudyError as error:
        return error
    return None


def _follow(engine: DeepSpeedEngine, world: World) -> int:
    while True:
        told = world.broadcast(None)
        if "status" in told:
            return int(told["status"])
        _make(Task(**told["task"]), engine, world, open_storage(told["folder"]).root)


def _make(task: Task, engine: DeepSpeedEngine, world: World, folder: StoragePath) -> list[RunReport]:
    try:
        with WatchThread(folder, world.rank, world.size, 60 * engine.hang_minutes):
            return make_on_rank(task)
    except GroupEndedError as error:
        if error.cause.kind == "out-of-memory":
            raise GroupEndedError(keep_out_of_memory(task, engine, error.cause)) from error
        raise


def keep_out_of_memory(task: Task, engine: DeepSpeedEngine, cause: Cause) -> Cause:
    """Leave on the storage what a run that ended out of memory is to be tried with next, or a result that says so.

    A launcher starts its ranks with what they had: it is their next start, by the launcher or as a job that is
    requeued, which goes on with less (`with_less`). `engine`: as the study says. The cause says what comes next.
    """
    (run,) = (run for run in task.specs() if run.run_id == cause.run_id)
    assert isinstance(run, TrainRun)
    had = DeepSpeedEngine.model_validate_json(task.group).micro_batch_tokens
    rows = cause.rows or (0 if had == "auto" else max(1, had // run.model.context))
    runs, group = (run.model_dump_json(),), engine.model_dump_json()
    attempts = Attempts(replace(task, runs=runs, asked=(), group=group, notes=()))
    attempts.failed(replace(cause, rows=rows))
    if attempts.left is None:
        return cause
    tokens, notes = attempts.left.micro_batch_tokens, attempts.left.notes
    attempt = {"cause": cause.words, "run": run.run_id, "micro_batch_tokens": tokens, "notes": notes}
    open_storage(task.storage).runs.write_attempt(run.run_id, attempt)
    words = f"{cause.words}; started again it goes on with micro-batches of {tokens} tokens"
    return replace(cause, words=words)


def with_less(task: Task, engine: DeepSpeedEngine, storage: Storage) -> Task:
    """The task with the smallest micro-batch that a run of it, out of memory before, was left; "auto" is left so."""
    found = [attempt for run in task.specs() for attempt in storage.runs.read_attempts(run.run_id)]
    tried = [attempt for attempt in found if isinstance(attempt.get("micro_batch_tokens"), int)]
    if engine.micro_batch_tokens != "auto" or not tried:
        return task
    least = min(tried, key=lambda attempt: int(attempt["micro_batch_tokens"]))
    tokens = least["micro_batch_tokens"]
    group = engine.model_copy(update={"micro_batch_tokens": tokens}).model_dump_json()
    return replace(task, group=group, micro_batch_tokens=tokens, notes=(*task.notes, *map(str, least.get("notes", ()))))


class _RanksExecutor:
    """Makes tasks by the ranks there are, one after another."""

    def __init__(self, world: World, engine: DeepSpeedEngine, storage: Storage, study: str) -> None:
        self._world, self._engine, self._storage = world, engine, storage
        # Where ranks leave their beats; the name lets leftovers.py remove it if this process dies.
        self._folder = storage.study(study).path / writing_name()

    def group_places(self, engine: DeepSpeedEngine) -> int:  # noqa: ARG002 (one group, this one)
        """How many groups can be at work at once."""
        return 1

    @property
    def devices(self) -> Devices:
        """Those of the ranks."""
        engine = self._engine
        return Devices(engine.workers * engine.cpus_per_worker, engine.workers * engine.gpus_per_worker)

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """Make all tasks, in order."""
        for each in tasks:
            task = with_less(each, self._engine, self._storage)
            told: dict[str, Any] = {"task": asdict(task), "folder": str(self._folder)}
            self._world.broadcast(told)
            yield from _make(task, self._engine, self._world, self._folder)

    def __enter__(self) -> Self:
        if isinstance(self._folder, Path):  # a remote storage has no empty folders
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(StorageError):  # beats may still come; what ended the work is told, not that
            remove_folder(self._folder)
