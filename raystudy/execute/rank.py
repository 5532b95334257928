"""A group's task as each of its ranks makes it: on every rank of a process group that has formed, in step.

Rank 0 alone reads records and writes them; it decides for all what is to be done with each run. What goes wrong on
rank 0 alone, or on all ranks in step, costs the run, and all that come after it where the storage cannot be written;
what goes wrong on one rank in the middle of a training ends the group, since the others wait for it. torch is loaded
here, and DeepSpeed where something is trained.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.checkpoints import remove_checkpoint
from raystudy.artifacts.storage import open_storage
from raystudy.errors import MissingPackageError, RaystudyError, StoppedError
from raystudy.execute.decoder_work import check_same_end, see_what_lacks
from raystudy.execute.first_cause import Cause, cause_of, needs_mending
from raystudy.execute.inputs import need_packages
from raystudy.execute.recording import Recording
from raystudy.execute.work import RunReport, Task, about_task, failed_report
from raystudy.execute.workplace import Workplace
from raystudy.reference import beat
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.reading import Asked
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.artifacts.results import Record
    from raystudy.reference.world import World
    from raystudy.train.run import Outcome


class GroupEndedError(Exception):
    """A rank met what its group does not survive: `cause` is this rank's view of it."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.words)
        self.cause = cause


def make_on_rank(
    task: Task, told: Callable[[RunReport], None] | None = None, must_stop: Callable[[], bool] | None = None
) -> list[RunReport]:
    """Make every run of a group's task that lacks something; to be called by all ranks alike.

    Args:
        task: the same on all ranks.
        told: gets each report on rank 0 as soon as its run has ended.
        must_stop: asked on rank 0 after every step; where given, it must be on all ranks.

    Returns:
        The reports on rank 0, in the order of the runs; none elsewhere.

    Raises:
        MissingPackageError: DeepSpeed is not installed.
        GroupEndedError: the group cannot go on; runs that ended before have their records.
        StoppedError: it had to stop, and has left a checkpoint.
    """
    from raystudy.reference.world import join

    need_packages("deepspeed", extra="deepspeed")
    engine = DeepSpeedEngine.model_validate_json(task.group)
    world = join(engine.device)
    if world.size != engine.workers:
        raise RaystudyError(
            f"a group must have as many ranks as engine.workers says ({engine.workers}), but has {world.size}. "
            f"Start so many, or say how many there are"
        )
    reports: list[RunReport] = []
    for member, (run, asked) in enumerate(zip(task.specs(), task.asked_of(), strict=True)):
        if member == 1:  # these tell of the run that an attempt begins with
            task = replace(task, notes=())
        assert isinstance(run, TrainRun)
        beat.begin_run(member)
        try:
            report = _Member(task, run, asked, engine, world, reports[-1] if reports else None, must_stop).make()
        except StoppedError:
            raise
        except Exception as error:
            raise GroupEndedError(_cause(error, world, run)) from error
        if report is not None:
            reports.append(report)
            if told is not None:
                told(report)
    return reports


def _cause(error: Exception, world: "World", run: TrainRun) -> Cause:
    from raystudy.train.micro_batches import is_out_of_memory

    step = max(beat.now().step, 0)
    # What is not installed, no other run finds either.
    run_id = "" if isinstance(error, MissingPackageError) else run.run_id
    cause = cause_of(error, world.rank, run_id, step, is_out_of_memory=is_out_of_memory(error))
    return replace(cause, rows=beat.rows_at_once())


class _Member:
    """One run of the task, on this rank; `before`: on rank 0, how the run before it ended."""

    def __init__(
        self,
        task: Task,
        run: TrainRun,
        asked: Asked,
        engine: DeepSpeedEngine,
        world: "World",
        before: RunReport | None,
        must_stop: Callable[[], bool] | None,
    ) -> None:
        self._must_stop = must_stop
        self._run, self._asked, self._engine, self._world, self._before = run, asked, engine, world, before
        storage = open_storage(task.storage)
        storage.runs.mends = world.rank == 0
        about = {
            **about_task(task, {"deepspeed": version("deepspeed")}, run.run_id),
            "engine": engine.model_dump(mode="json", exclude_defaults=True),
            "num_devices": world.size * engine.num_devices / engine.workers,
        }
        self._at = Workplace(
            storage, task.validation, world.device, about, downstream=task.downstream, notes=list(task.notes)
        )
        self._record: Record | None = None
        self._started = time.perf_counter()

    def make(self) -> RunReport | None:
        """The report on rank 0, None elsewhere."""
        decision = self._world.broadcast(self._decide() if self._world.rank == 0 else None)
        if decision["report"] is not None:
            return RunReport(**decision["report"]) if self._world.rank == 0 else None
        outcome, note = self._train()
        beat.end_run()
        return None if outcome is None else self._report(lambda: self._write(outcome, note))

    def _decide(self) -> dict[str, Any]:
        """On rank 0: the report of a run that is not to be trained, as plain data; None for one that is."""
        if self._before is not None and self._before.is_unwritable:  # no run would fare better
            return {"report": replace(self._before, run_id=self._run.run_id, seconds=0.0).__dict__}
        must_train = False

        def look() -> tuple[str, bool]:
            nonlocal must_train
            if self._run.starts_from is not None:
                raise RaystudyError(
                    "a branch must be of a run of engine torch, but this one is of deepspeed. Leave the branch out"
                )
            self._record, must_train = see_what_lacks(self._run, self._at, self._at.documents(), self._asked)
            return ("" if self._record is None else self._record.status), False

        report = self._report(look)
        must_train &= report.status != "failed"
        return {"report": None if must_train else report.__dict__}

    def _train(self) -> "tuple[Outcome | None, str]":
        """By all ranks; the outcome on rank 0, and what is to be told of checkpoints."""
        from raystudy.reference.checkpoint import Checkpoints
        from raystudy.reference.run import train_on_ranks

        run, world = self._run, self._world
        keeping = None
        if world.rank == 0:
            self._recording = Recording(
                run, self._at, self._at.documents(), self._asked, is_again=self._record is not None
            )
            keeping = self._recording.keeping()
        view, documents = world.together(lambda: (self._at.view(run.shards), self._at.documents()))
        folder = self._at.storage.runs.folder(run.run_id)
        checkpoints = Checkpoints(folder, run.run_id, self._engine, world, self._asked, self._must_stop)
        outcome = train_on_ranks(
            run, view, documents, self._engine, world, checkpoints=checkpoints, asked=self._asked, keeping=keeping
        )
        return outcome, checkpoints.note

    def _write(self, outcome: "Outcome", note: str) -> tuple[str, bool]:
        self._at.notes.extend([note] if note else [])
        status = self._recording.ended(outcome)
        remove_checkpoint(self._at.storage.runs.folder(self._run.run_id))
        check_same_end(self._run, self._record, status)
        return status, self._record is None

    def _report(self, work: Callable[[], tuple[str, bool]]) -> RunReport:
        """How work that rank 0 does alone went: a run's status, and whether it was made."""
        try:
            status, is_made = work()
        except Exception as error:
            report = failed_report(self._run.run_id, error, time.perf_counter() - self._started)
            return replace(report, is_final=needs_mending(error))
        report = RunReport(self._run.run_id, status, self._run.num_tokens, time.perf_counter() - self._started)
        return replace(report, is_made=is_made, note="; ".join(self._at.notes))
