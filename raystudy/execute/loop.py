"""The loop of a launch: wave, execute, until nothing wanted is missing or what is left has failed three times.

The truth is on storage: a launch after a crash, an extension, a study that shares runs are all wanted minus done.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raystudy.artifacts.damage import set_torn_json_aside
from raystudy.artifacts.leftovers import remove_leftovers
from raystudy.artifacts.storage import Storage
from raystudy.errors import IncompleteError, UnwritableError
from raystudy.execute.driver_lock import hold_study
from raystudy.execute.inputs import build_inputs, check_files, mend_inputs
from raystudy.execute.local import Executor
from raystudy.execute.progress import Progress
from raystudy.execute.tasks import make_tasks
from raystudy.specs.load import LoadedStudy
from raystudy.study.results import read_records
from raystudy.study.state import StudyInputs, WantedRun
from raystudy.study.waves import Wave, make_wave

MAX_FAILURES = 3  # of one run in one launch
UNSEEN = (
    "reported as done, but its record is not on the storage that the driver sees. Use a storage that all nodes share"
)
OUT_OF_MEMORY = "out of memory. Lower batch_tokens or the model, or use a larger device, and remove the run's folder"


@dataclass
class Launch:
    """How a launch went. `causes` holds the last cause of every run that stayed without a result."""

    name: str
    num_wanted: int = 0
    num_done_before: int = 0
    num_made: int = 0
    causes: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every wanted run has its result."""
        return not self.causes and not self.waiting

    def raise_if_incomplete(self) -> None:
        """Raises IncompleteError that names what is missing and why."""
        if not self.is_complete:
            lines = [f"  {run}: {cause}" for run, cause in self.causes.items()] + [f"  {w}" for w in self.waiting]
            raise IncompleteError(
                f"all wanted runs of {self.name!r} must have a result, but these have none. "
                f"Run the study again to try them again\n" + "\n".join(lines)
            )


def run_study(
    loaded: LoadedStudy,
    storage: Storage,
    make_executor: Callable[[], Executor],
    progress: Progress,
    *,
    wait: bool = True,
) -> Launch:
    """Make every run that the study wants and has not; the executor starts only if there is something to do."""
    storage.prepare()
    folder = storage.study(loaded.spec.name)
    with hold_study(folder.path, wait=wait, say=progress.say) as is_clean:
        storage.runs.mends = True
        for line in set_torn_json_aside(folder.path):
            progress.say(line)
        check_files(loaded.spec)
        inputs = build_inputs(loaded.spec, storage, progress)
        stored = {"shards": inputs.shards, "validation": inputs.validation, "vocabulary": inputs.vocabulary}
        folder.write_study(loaded, stored)
        state = read_records(storage, loaded.spec, inputs)
        for line in storage.runs.damage:
            progress.say(line)
        wave = make_wave(state)
        if not is_clean:
            remove_leftovers(storage.root, folder.path, wave.wanted)
        launch = Launch(loaded.spec.name, num_done_before=sum(state.is_done(run) for run in wave.wanted.values()))
        if wave.todo:
            with make_executor() as executor:
                wave = _run_waves(wave, loaded, inputs, storage, executor, progress, launch)
            remove_leftovers(storage.root, folder.path, wave.wanted)
        launch.num_wanted = len(wave.wanted)
        state = read_records(storage, loaded.spec, inputs)
        launch.causes |= {str(run): OUT_OF_MEMORY for run in wave.wanted.values() if state.is_out_of_memory(run)}
        launch.waiting = [f"{name}: {item.num_runs} runs wait for {item.reason}" for name, item in wave.waiting]
        return launch


def _run_waves(
    wave: Wave,
    loaded: LoadedStudy,
    inputs: StudyInputs,
    storage: Storage,
    executor: Executor,
    progress: Progress,
    launch: Launch,
) -> Wave:
    failures: Counter[str] = Counter()
    number = 0
    while todo := [run for run in wave.todo if failures[run.run_id] < MAX_FAILURES]:
        number += 1
        progress.start(f"wave {number}", len(todo), sum(run.flops for run in todo))
        failed = _execute(todo, loaded, inputs, storage, executor, progress, launch)
        state = read_records(storage, loaded.spec, inputs)
        for run in todo:
            if run not in failed and not state.is_done(run):
                failed.append(run)
                launch.causes[str(run)] = UNSEEN
        failures.update(run.run_id for run in failed)
        wave = make_wave(state)
    missing = {str(run) for run in wave.todo}
    launch.causes = {run: cause for run, cause in launch.causes.items() if run in missing}
    return wave


def _execute(
    todo: list[WantedRun],
    loaded: LoadedStudy,
    inputs: StudyInputs,
    storage: Storage,
    executor: Executor,
    progress: Progress,
    launch: Launch,
) -> list[WantedRun]:
    """Execute one wave; returns the runs that failed."""
    validation = {digest: name for name, digest in inputs.validation.items()}
    device = "cuda" if loaded.spec.resources.gpus_per_run > 0 else "cpu"
    tasks = make_tasks(todo, str(storage.root), validation, device)
    by_id = {run.run_id: run for run in todo}
    failed = []
    for report in executor.run(tasks):
        run = by_id[report.run_id]
        progress.ended(report.status, report.num_tokens, run.flops)
        if report.is_unwritable:
            raise UnwritableError(report.cause)
        if report.status == "failed":
            failed.append(run)
            launch.causes[str(run)] = report.cause
            progress.say(f"failed: {run}: {report.cause}")
            storage.runs.write_attempt(run.run_id, {"cause": report.cause, "run": str(run)})
            if report.damaged:
                mend_inputs(Path(report.damaged), loaded.spec, storage, inputs, progress)
        else:
            launch.num_made += 1
    return failed
