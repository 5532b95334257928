"""The loop of a launch: wave, execute, until nothing wanted is missing or what is left has failed often enough.

The truth is on storage: a launch after a crash, an extension, a study that shares runs are all wanted minus done.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raystudy.artifacts.damage import set_torn_json_aside
from raystudy.artifacts.leftovers import remove_leftovers
from raystudy.artifacts.node_cache import take_fetched
from raystudy.artifacts.storage import Storage, StudyFolder, open_storage
from raystudy.errors import BudgetError, DamagedError, IncompleteError, StorageError, UnwritableError
from raystudy.execute.budget import Budget, Spending
from raystudy.execute.command_tasks import make_command_tasks, split_commands
from raystudy.execute.downstream_inputs import mend_tasks
from raystudy.execute.driver_lock import hold_study
from raystudy.execute.frozen_data import build_data, mend_data
from raystudy.execute.inputs import sizes_of_sources
from raystudy.execute.leak_check import with_leaks
from raystudy.execute.local import Executor, num_cores
from raystudy.execute.out_of_memory import out_of_memory_words
from raystudy.execute.progress import Progress
from raystudy.execute.resolving import new_shards_refused, resolve_again, tell_changes
from raystudy.execute.tasks import make_tasks
from raystudy.specs.load import LoadedStudy
from raystudy.study.chosen import Chosen
from raystudy.study.frozen import Frozen
from raystudy.study.lr_rules import drift, newly_resolved
from raystudy.study.repeats import check_windows, repeat_lines, repeats
from raystudy.study.results import read_frozen, read_records
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import Wave, make_wave, waiting_lines

MAX_FAILURES = 3  # of one run in one launch, unless its report says that it has been tried often enough
UNSEEN = (
    "reported as done, but its record is not on the storage that the driver sees. Use a storage that all nodes share"
)


@dataclass
class Launch:
    """How a launch went. `causes` holds the last cause of every run that stayed without a result.

    `budget`: the budget at which it stopped, in words; empty where it went on to the end. `num_left`: wanted runs
    that it left.
    """

    name: str
    num_wanted: int = 0
    num_done_before: int = 0
    num_made: int = 0
    num_left: int = 0
    budget: str = ""
    causes: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every wanted run has its result."""
        return not self.causes and not self.waiting and not self.budget

    def raise_if_incomplete(self) -> None:
        """Raises BudgetError with how many runs are left, or IncompleteError that names what is missing and why."""
        if self.budget:
            raise BudgetError(
                f"stopped at the budget of this launch ({self.budget}): {self.num_left} wanted runs of {self.name!r} "
                f"are left. Finished runs are kept; run the study again to go on"
            )
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
    budget: Budget | None = None,
    again: bool = False,
    chosen: Chosen | None = None,
) -> Launch:
    """Make every run that the study wants and has not; the executor starts only if there is something to do.

    `again` resolves frozen learning rates and shards anew; `chosen`: only these of the runs.

    Raises:
        DataError: the study's text has changed since it was frozen, and `again` was not asked for.
    """
    storage.prepare()
    folder = storage.study(loaded.spec.name)
    with hold_study(folder.path, wait=wait, say=progress.say) as is_clean:
        progress.keep(_keeper(folder))
        driver = _Driver(loaded, storage, folder, progress, budget or Budget(), chosen)
        storage.runs.mends = True
        for line in set_torn_json_aside(folder.path):
            progress.say(line)
        driver.settle(again=again)
        state = driver.read()
        for line in storage.runs.damage:
            progress.say(line)
        driver.tell_drift(state)
        wave = driver.wave(state)
        if wave.todo:
            sizes = sizes_of_sources(state.study, state.inputs, storage)
            check_windows(wave.todo, sizes)
            for line in repeat_lines(repeats(wave.wanted.values(), sizes)):
                progress.say(line)
        if not is_clean:
            _clean_up(storage, folder, wave)
        driver.launch.num_done_before = sum(state.is_done(run) for run in wave.wanted.values())
        if wave.todo:
            with make_executor() as executor:
                state = driver.run_waves(state, executor)
            _clean_up(storage, folder, driver.wave(state))
        driver.compact(state)
        return driver.finish(state)


def _keeper(folder: StudyFolder) -> Callable[[dict[str, Any]], None]:
    def keep(state: dict[str, Any]) -> None:
        with suppress(StorageError):  # a courtesy: what must be safe says so when it is written
            folder.write_progress(state)

    return keep


def _clean_up(storage: Storage, folder: StudyFolder, wave: Wave) -> None:
    remove_leftovers(storage.root, folder.path, wave.wanted, {run.run_id for run in wave.todo})


class _Driver:
    """One launch of a study whose folder it holds."""

    def __init__(
        self,
        loaded: LoadedStudy,
        storage: Storage,
        folder: StudyFolder,
        progress: Progress,
        budget: Budget,
        chosen: Chosen | None = None,
    ) -> None:
        self.loaded, self.storage, self.folder, self.progress = loaded, storage, folder, progress
        self.launch = Launch(loaded.spec.name)
        self._chosen = chosen
        resources = loaded.spec.resources
        self._slots = num_cores() if resources.workers is None else max(resources.workers, 1)
        self._spending = Spending(budget, resources, self._slots, loaded.spec.deepspeed_engines())
        self._frozen = Frozen()
        self._told: list[str] = []
        self._final: set[str] = set()  # failed runs that are not tried again
        self._inputs = StudyInputs({}, {}, 0)

    def settle(self, *, again: bool) -> None:
        """Build the study's data, or find them as they were, and keep what the study is."""
        study, frozen = self.loaded.spec, read_frozen(self.folder)
        data = build_data(self.loaded, self.storage, frozen, self.progress)
        chosen = frozen
        if data.changed or again:
            before = read_records(self.storage, study, data.before, frozen.rules)
            chosen = resolve_again(frozen, before) if again else frozen
            after = read_records(self.storage, study, data.now, chosen.rules)
            if not again:
                raise new_shards_refused(data, before, after, self._slots)
            tell_changes(data, before, after, self._slots, self.progress)
        self._frozen = data.freeze(chosen)
        self._inputs = self._with_leaks(data.now)
        for line in take_fetched():
            self.progress.say(line)
        if self._frozen != frozen:
            self.folder.write_frozen(self._frozen.as_plain())
        self.folder.write_study(self.loaded, asdict(self._inputs))

    def _with_leaks(self, inputs: StudyInputs) -> StudyInputs:
        """The inputs with what is leaked; shards that are found damaged on the way here are built anew."""
        met: set[str] = set()
        while True:
            try:
                return with_leaks(inputs, self.loaded.spec, self.storage, self.progress)
            except DamagedError as error:
                if str(error.path) in met:
                    raise
                met.add(str(error.path))
                mend_data(error.path, self.loaded, self.storage, self._frozen, self.progress)

    def read(self) -> StudyState:
        """The state as the records say now; what rules it resolves is frozen before anything rests on it."""
        state = read_records(self.storage, self.loaded.spec, self._inputs, self._frozen.rules)
        new = newly_resolved(state)
        if new:
            self._frozen = replace(self._frozen, rules={**self._frozen.rules, **new})
            self.folder.write_frozen(self._frozen.as_plain())
            state = replace(state, frozen=self._frozen.rules)
        return state

    def wave(self, state: StudyState) -> Wave:
        """The next wave, or the part of it that is chosen."""
        wave = make_wave(state)
        return wave if self._chosen is None else self._chosen.part_of(wave, state.study)

    def run_waves(self, state: StudyState, executor: Executor) -> StudyState:
        """Wave after wave; returns the last state."""
        failures: Counter[str] = Counter()
        number = 0
        while todo := [run for run in self.wave(state).todo if self._may_try(run, failures)]:
            chosen = self._spending.affordable(todo, state)
            if not chosen:
                self.launch.budget = self._spending.words()
                break
            number += 1
            self.progress.start(f"wave {number}", len(chosen), sum(run.flops for run in chosen))
            failed = self._execute(chosen, executor)
            state = self.read()
            self.compact(state)
            for run in chosen:
                if run not in failed and not state.is_done(run):
                    failed.append(run)
                    self.launch.causes[str(run)] = UNSEEN
            failures.update(run.run_id for run in failed)
        return state

    def compact(self, state: StudyState) -> None:
        """Copy the records of a remote storage into few files, for whoever reads them from afar."""
        with suppress(StorageError):  # a courtesy: without them every record is read by itself
            self.storage.runs.files.compact(make_wave(state).wanted, self.folder.compacted)

    def _may_try(self, run: WantedRun, failures: Counter[str]) -> bool:
        return run.run_id not in self._final and failures[run.run_id] < MAX_FAILURES

    def _execute(self, todo: list[WantedRun], executor: Executor) -> list[WantedRun]:
        """Execute one wave; returns the runs that failed."""
        validation = {digest: name for name, digest in self._inputs.validation.items()}
        downstream = {digest: name for name, digest in self._inputs.tasks.items()}
        study, root = self.loaded.spec, str(self.storage.root)
        commands, own = split_commands(todo)
        means = (study.resources, downstream, study.deepspeed_engines(), executor.group_places)
        tasks = make_tasks(own, root, validation, *means)
        tasks += make_command_tasks(commands, root, validation, study)
        by_id = {run.run_id: run for run in todo}
        failed = []
        for report in executor.run(tasks):
            run = by_id[report.run_id]
            self._spending.ended(run, report.seconds, is_made=report.is_made)
            self.progress.ended(report.status, report.num_tokens, run.flops)
            if report.note:
                self.progress.say(f"{run}: {report.note}")
            if report.is_unwritable:
                raise UnwritableError(report.cause)
            if report.status == "failed":
                failed.append(run)
                self._final |= {run.run_id} if report.is_final else set()
                self.launch.causes[str(run)] = report.cause
                self.progress.say(f"failed: {run}: {report.cause}")
                self.storage.runs.write_attempt(run.run_id, {"cause": report.cause, "run": str(run)})
                if report.damaged:
                    mend_data(open_storage(report.damaged).root, self.loaded, self.storage, self._frozen, self.progress)
                    mend_tasks(self.loaded.spec, self.storage, self._inputs, self.progress)
            else:
                self.launch.num_made += 1
        return failed

    def tell_drift(self, state: StudyState) -> None:
        """Say, once, which frozen learning rates would be others if resolved anew."""
        for line in drift(state):
            if line not in self._told:
                self.progress.say(line)
                self._told.append(line)

    def finish(self, state: StudyState) -> Launch:
        """How the launch went."""
        self.tell_drift(state)
        wave = self.wave(state)
        launch, missing = self.launch, {str(run) for run in wave.todo}
        launch.causes = {run: cause for run, cause in launch.causes.items() if run in missing}
        for run in wave.wanted.values():
            if state.is_out_of_memory(run):
                launch.causes[str(run)] = out_of_memory_words(run, self.loaded.spec)
        launch.waiting = waiting_lines(wave)
        launch.num_wanted = len(wave.wanted)
        launch.num_left = len(wave.todo) + sum(item.num_runs for _, item in wave.waiting)
        return launch
