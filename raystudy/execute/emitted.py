"""A wave as files, for whatever starts its tasks without Ray: Slurm, another batch system, a person.

`plan --emit` holds the study, settles its data and learning rates, and writes the tasks that are missing now, one JSON
object a line; `run-task` makes them (run_task.py). Runs that failed three times on record are left out unless asked
for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import exists
from raystudy.artifacts.records import failures_among
from raystudy.artifacts.storage import Storage, folder_name
from raystudy.errors import BudgetError, IncompleteError, SpecError
from raystudy.execute.budget import Budget
from raystudy.execute.loop import Driver
from raystudy.execute.progress import Progress
from raystudy.execute.sbatch import JobShape, sbatch_script, submit_script
from raystudy.execute.shapes import Shape, by_shape, engine_of
from raystudy.execute.work import MAX_FAILURES, Task
from raystudy.specs.base import digest
from raystudy.specs.load import LoadedStudy
from raystudy.specs.run import read_run
from raystudy.study.speeds import Speeds
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import Wave, waiting_lines

FORMAT = "raystudy-wave/1"
JOB_SECONDS = 900.0  # tasks share a job up to this estimate: to start one costs seconds to minutes
MOST_JOBS = 1000  # of one array: Slurm's own MaxArraySize is 1001 unless its administrator says otherwise
_LEAST_WALLTIME, _MOST_WALLTIME, _WALLTIME_STEP = 3600, 24 * 3600, 900  # seconds
_WALLTIME_TO_SPARE = 3.0  # times the estimate, which is rough


@dataclass(frozen=True)
class Emission:
    """How a wave is to be written: `slurm`: with a script for sbatch; `limit`: jobs of an array at once.

    `walltime`: seconds of one job, None to estimate it; `retry`: runs that failed three times on record too.
    """

    out: Path
    slurm: bool = True
    limit: int = 20
    walltime: int | None = None
    retry: bool = False

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise SpecError(f"--limit must be 1 or more jobs at once, but got {self.limit}")


@dataclass(frozen=True)
class Array:
    """The tasks of one resource shape: job i of `num_jobs` makes the `per_job` tasks from i * per_job of `tasks_file`.

    `seconds`: what one job may take, an estimate. `script`: for sbatch.
    """

    tasks_file: str
    script: str
    num_tasks: int
    num_runs: int
    num_jobs: int
    per_job: int
    cpus: int
    gpus: int
    seconds: float
    walltime: int


@dataclass(frozen=True)
class Emitted:
    """What was written. `given_up`: runs that failed too often, with their last cause; `num_left`: by the budget."""

    study: str
    num_wanted: int
    num_done: int
    arrays: tuple[Array, ...]
    num_begun: int = 0
    num_left: int = 0
    waiting: tuple[str, ...] = ()
    given_up: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_runs(self) -> int:
        """Runs that were written."""
        return sum(array.num_runs for array in self.arrays)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"format": FORMAT, **asdict(self), "num_runs": self.num_runs}

    def raise_if_stuck(self) -> None:
        """Raises IncompleteError where runs are missing and none was written."""
        if not self.arrays and self.given_up:
            lines = [f"  {run}: {cause}" for run, cause in self.given_up.items()] + [f"  {w}" for w in self.waiting]
            raise IncompleteError(
                f"all wanted runs of {self.study!r} must have a result, but these failed {MAX_FAILURES} times and are "
                f"not tried again without --retry\n" + "\n".join(lines)
            )


def emit_wave(
    loaded: LoadedStudy, storage: Storage, emission: Emission, progress: Progress, *, wait: bool = True
) -> Emitted:
    """Write the tasks of the study's next wave to `emission.out`; builds its data first, as a launch would.

    Raises:
        SpecError: the folder cannot be written.
        BudgetError: nothing that is missing fits into the study's budget.
        StudyHeldError, DataError: as a launch.
    """
    driver = Driver(loaded, storage, progress, Budget())
    with driver.holding(wait=wait) as (state, wave):
        driver.clean_up(wave)  # of tasks that were killed; those at work on other machines keep what is theirs
        driver.compact(state)
        failures = _failures(wave, storage)
        given_up = {} if emission.retry else _given_up(failures)
        todo = [run for run in wave.todo if str(run) not in given_up]
        chosen = driver.affordable(todo, state)
        if todo and not chosen:
            raise BudgetError(
                f"a wave must fit into the study's budget, but nothing of it does ({driver.budget_words()}): "
                f"{len(todo)} runs of {loaded.spec.name!r} are left. Raise `budget` in the study file to go on"
            )
        writer = _Writer(loaded, emission, state, {run.run_id: run for run in chosen}, failures)
        try:
            arrays = writer.write(driver.tasks_of(chosen))
        except OSError as error:
            told = error.strerror or str(error)
            raise SpecError(f"--out must name a folder that can be written, but {emission.out}: {told}") from error
        return Emitted(
            study=loaded.spec.name,
            num_wanted=len(wave.wanted),
            num_done=driver.launch.num_done_before,
            arrays=tuple(arrays),
            num_begun=sum(exists(storage.runs.folder(run.run_id) / "spec.json") for run in chosen),
            num_left=len(todo) - len(chosen),
            waiting=tuple(waiting_lines(wave)),
            given_up=given_up,
        )


def _failures(wave: Wave, storage: Storage) -> dict[str, list[Mapping[str, Any]]]:
    """Of each run to make, by its name, the attempts on record that failed."""
    tries = storage.runs.read_all_attempts([run.run_id for run in wave.todo])
    return {str(run): failures_among(tries[run.run_id]) for run in wave.todo}


def _given_up(failures: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Runs that failed too often, with their last cause."""
    return {
        run: str(failed[-1].get("cause", "unknown")) for run, failed in failures.items() if len(failed) >= MAX_FAILURES
    }


class _Writer:
    """Writes one wave. Files are named by what they hold, so that a later wave leaves those of an array at work."""

    def __init__(
        self,
        loaded: LoadedStudy,
        emission: Emission,
        state: StudyState,
        by_id: Mapping[str, WantedRun],
        failures: Mapping[str, Sequence[Any]],
    ) -> None:
        self._failures = {run: len(failed) for run, failed in failures.items()}
        self._loaded, self._emission, self._by_id = loaded, emission, by_id
        self._speeds = Speeds(state, 1)

    def write(self, tasks: Sequence[Task]) -> list[Array]:
        """An array for each resource shape, and what submits them all."""
        self._emission.out.mkdir(parents=True, exist_ok=True)
        arrays = [self._write(shape, alike) for shape, alike in by_shape(tasks)]
        if self._emission.slurm:
            text = submit_script(
                self._loaded.spec.name, [array.script for array in arrays], sum(self._failures.values())
            )
            (self._emission.out / "submit.sh").write_text(text, encoding="utf-8")
        return arrays

    def _write(self, shape: Shape, tasks: Sequence[Task]) -> Array:
        lines = "".join(task_line(task, self._by_id, self._failures) + "\n" for task in tasks)
        kind = f"groups-of-{shape.workers}" if shape.workers else "runs"
        name = f"{kind}-{digest(lines)[:8]}"
        path = self._emission.out / f"{name}.jsonl"
        path.touch(mode=0o600)  # a command's environment stands in it
        path.write_text(lines, encoding="utf-8")
        seconds = sum(self._seconds(run_id) for task in tasks for run_id in _ids(task)) / len(tasks)
        num, most = len(tasks), JOB_SECONDS / max(seconds, 1e-3)
        per_job = max(math.ceil(num / MOST_JOBS), min(int(most), math.ceil(num / self._emission.limit)), 1)
        cpus, gpus = _devices(tasks[0])
        array = Array(
            tasks_file=f"{name}.jsonl",
            script=f"{name}.sbatch" if self._emission.slurm else "",
            num_tasks=num,
            num_runs=sum(len(task.runs) for task in tasks),
            num_jobs=math.ceil(num / per_job),
            per_job=per_job,
            cpus=cpus,
            gpus=gpus,
            seconds=per_job * seconds,
            walltime=self._emission.walltime or _walltime(per_job * seconds),
        )
        if array.script:
            job = JobShape(folder_name(self._loaded.spec.name), array.num_jobs, per_job, self._emission.limit)
            script = sbatch_script(self._loaded.spec.name, job, path.absolute(), cpus, gpus, array.walltime)
            (self._emission.out / array.script).write_text(script, encoding="utf-8")
        return array

    def _seconds(self, run_id: str) -> float:
        run = self._by_id[run_id]
        return run.flops / self._speeds.speed(self._speeds.kind_of(run)).flops_per_second


def _ids(task: Task) -> list[str]:
    return [run.run_id for run in task.specs()]


def _devices(task: Task) -> tuple[int, int]:
    """Whole CPU cores and GPUs of a job: Slurm shares out neither in parts."""
    engine = engine_of(task)
    if engine is not None:
        return math.ceil(engine.workers * engine.cpus_per_worker), engine.workers * engine.gpus_per_worker
    return math.ceil(task.cpus), math.ceil(task.gpus)


def _walltime(seconds: float) -> int:
    """Three times the estimate, in whole quarters of an hour; what it cuts short goes on in the next job."""
    steps = math.ceil(_WALLTIME_TO_SPARE * seconds / _WALLTIME_STEP)
    return min(max(steps * _WALLTIME_STEP, _LEAST_WALLTIME), _MOST_WALLTIME)


def task_line(task: Task, by_id: Mapping[str, WantedRun], failures: Mapping[str, int]) -> str:
    """A task as one line of JSON: its fields, and `members`, the names that people know its runs by.

    `failures`: how often each run, by such a name, has failed so far.
    """
    members = []
    for text in task.runs:
        run = by_id[read_run(text).run_id]
        about = {"recipe": run.recipe, "model": run.model, "detail": run.detail, "changes": run.changes}
        members.append({**about, "num_failures": failures.get(str(run), 0)})
    return json.dumps({**asdict(task), "members": members}, allow_nan=False)
