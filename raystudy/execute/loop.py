"""The loop of a launch: wave, execute, until nothing wanted is missing or what is left has failed often enough.

The truth is on storage: a launch after a crash, an extension, a study that shares runs are all wanted minus done.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from raystudy.artifacts.damage import set_torn_json_aside
from raystudy.artifacts.leftovers import remove_leftovers
from raystudy.artifacts.node_cache import take_fetched
from raystudy.artifacts.remote_retries import patience
from raystudy.artifacts.storage import SHARED, Storage, StudyFolder, open_storage
from raystudy.errors import DamagedError, StorageError, UnwritableError
from raystudy.execute.budget import Budget, Spending
from raystudy.execute.command_tasks import make_command_tasks, split_commands
from raystudy.execute.downstream_inputs import mend_tasks
from raystudy.execute.driver_lock import hold_study
from raystudy.execute.frozen_data import build_data, mend_data
from raystudy.execute.inputs import sizes_of_sources
from raystudy.execute.launched import Launch
from raystudy.execute.leak_check import with_leaks
from raystudy.execute.local import Executor, num_cores
from raystudy.execute.losses import Losses
from raystudy.execute.out_of_memory import out_of_memory_words
from raystudy.execute.progress import Progress
from raystudy.execute.resolving import new_shards_refused, resolve_again, tell_changes
from raystudy.execute.tasks import make_tasks
from raystudy.execute.utilisation import Devices, Utilisation
from raystudy.execute.work import MAX_FAILURES, Task, attempt_of
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.load import LoadedStudy
from raystudy.study.chosen import Chosen
from raystudy.study.frozen import Frozen
from raystudy.study.lr_rules import drift, newly_resolved
from raystudy.study.repeats import check_windows, repeat_lines, repeats
from raystudy.study.results import read_frozen, read_records
from raystudy.study.spending import tried_seconds
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import Wave, make_wave, waiting_lines

_COURTESY_SECONDS = 2.0
UNSEEN = f"reported as done, but its record is not on the storage that the driver sees. Use {SHARED}"


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
    driver = Driver(loaded, storage, progress, budget or Budget(), chosen)
    with driver.holding(wait=wait, again=again) as (state, wave):
        if wave.todo:
            with make_executor() as executor:
                state = driver.run_waves(state, executor)
            driver.clean_up(driver.wave(state))
        driver.compact(state)
        return driver.finish(state)


def _keeper(folder: StudyFolder) -> Callable[[dict[str, Any]], None]:
    def keep(state: dict[str, Any]) -> None:
        # A courtesy, for which nothing waits: what must be safe says so when it is written.
        with suppress(StorageError), patience(_COURTESY_SECONDS):
            folder.write_progress(state)

    return keep


class Driver:
    """One launch of a study: what is done while its folder is held (`holding`)."""

    def __init__(
        self,
        loaded: LoadedStudy,
        storage: Storage,
        progress: Progress,
        budget: Budget,
        chosen: Chosen | None = None,
    ) -> None:
        self.loaded, self.storage, self.progress = loaded, storage, progress
        self.folder = storage.study(loaded.spec.name)
        self.launch = Launch(loaded.spec.name)
        self._chosen = chosen
        resources = loaded.spec.resources
        self._slots = num_cores() if resources.workers is None else max(resources.workers, 1)
        engines, own = loaded.spec.deepspeed_engines(), loaded.spec.own_resources
        self._spending = Spending(budget, resources, self._slots, engines, own)
        self._utilisation = Utilisation(loaded.spec)
        self._losses = Losses(storage.runs, progress)
        self._frozen = Frozen()
        self._told: list[str] = []
        self._final: set[str] = set()  # failed runs that are not tried again
        self._inputs = StudyInputs({}, {}, 0)

    @contextmanager
    def holding(self, *, wait: bool = True, again: bool = False) -> Iterator[tuple[StudyState, Wave]]:
        """Hold the study, its data settled; gives its state and its first wave. What to know of both is said.

        Raises:
            DataError, StudyHeldError: as `run_study` and `hold_study`.
        """
        storage, progress = self.storage, self.progress
        storage.prepare()
        progress.begin(self.loaded.spec.name, storage=str(storage.root))
        with hold_study(self.folder.path, wait=wait, say=progress.say) as is_clean:
            progress.keep(_keeper(self.folder))
            storage.runs.mends = True
            for line in set_torn_json_aside(self.folder.path):
                progress.say(line, "warning")
            self.settle(again=again)
            state = self.read()
            for line in storage.runs.damage:
                progress.say(line, "warning")
            self.tell_drift(state)
            wave = self.wave(state)
            if wave.todo:
                sizes = sizes_of_sources(state.study, state.inputs, storage)
                check_windows(wave.todo, sizes)
                for line in repeat_lines(repeats(wave.wanted.values(), sizes)):
                    progress.say(line, "warning")
                if state.study.budget is not None:
                    self._spending.tried = tried_seconds(state, storage)
            if not is_clean:
                self.clean_up(wave)
            self.launch.num_done_before = sum(state.is_done(run) for run in wave.wanted.values())
            yield state, wave

    def clean_up(self, wave: Wave) -> None:
        """Remove what writers that are gone left half-written."""
        remove_leftovers(self.storage.root, self.folder.path, wave.wanted, {run.run_id for run in wave.todo})

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
        self._utilisation.has(executor.devices)
        while todo := [run for run in self.wave(state).todo if self._may_try(run, failures)]:
            chosen = self.affordable(todo, state, executor.devices)
            if not chosen:
                self.launch.budget = self._spending.words()
                break
            number += 1
            self.progress.start(f"wave {number}", len(chosen), sum(run.flops for run in chosen))
            failed = self._execute(chosen, state, executor)
            state = self.read()
            self.compact(state)
            for run in chosen:
                if run not in failed and run.run_id not in self._losses.of_wave and not state.is_done(run):
                    failed.append(run)
                    self.launch.causes[str(run)] = UNSEEN
            failures.update(run.run_id for run in failed)
        self._utilisation.has(executor.devices)
        self.launch.device_time_used = self._utilisation.words()
        self.launch.num_preemptions = self._losses.num_preemptions
        return state

    def affordable(self, todo: list[WantedRun], state: StudyState, on: Devices | None = None) -> list[WantedRun]:
        """Those of `todo` that the budgets of launch and study let start now, `on` these devices."""
        return self._spending.affordable(todo, state, on)

    def budget_words(self) -> str:
        """The limit that was reached last."""
        return self._spending.words()

    def compact(self, state: StudyState) -> None:
        """Copy the records of a remote storage into few files, for whoever reads them from afar."""
        with suppress(StorageError):  # a courtesy: without them every record is read by itself
            self.storage.runs.files.compact(make_wave(state).wanted, self.folder.compacted)

    def _may_try(self, run: WantedRun, failures: Counter[str]) -> bool:
        return run.run_id not in self._final and failures[run.run_id] < MAX_FAILURES

    def _execute(self, todo: list[WantedRun], state: StudyState, executor: Executor) -> list[WantedRun]:
        """Execute one wave; returns the runs that failed."""
        by_id = {run.run_id: run for run in todo}
        failed = []
        for report in executor.run(self._losses.told(self.tasks_of(todo, executor.group_places))):
            run = by_id[report.run_id]
            self._spending.reported(run, report, had_record=state.record(run) is not None)
            self._utilisation.has(executor.devices)
            self._utilisation.ended(run, report.seconds + report.tried_seconds)
            self._losses.count(run, report)
            if report.is_unwritable:
                raise UnwritableError(report.cause)
            self.progress.used(self._utilisation.shares, self._losses.num_preemptions)
            self.progress.run_ended(run, report)
            if report.status == "failed" and not self._losses.may_go_on(run, report):
                failed.append(run)
                self._final |= {run.run_id} if report.is_final or report.loss else set()
                self.launch.causes[str(run)] = report.cause
                if report.loss:
                    self.progress.say(f"failed: {run}: {report.cause}", "error")
                self.storage.runs.write_attempt(run.run_id, attempt_of(str(run), report))
                if report.damaged:
                    mend_data(open_storage(report.damaged).root, self.loaded, self.storage, self._frozen, self.progress)
                    mend_tasks(self.loaded.spec, self.storage, self._inputs, self.progress)
            elif report.status != "failed":
                self.launch.ended(has_record=state.record(run) is not None, is_made=report.is_made)
        return failed

    def tasks_of(
        self, todo: list[WantedRun], group_places: Callable[[DeepSpeedEngine], int] = lambda _: 1
    ) -> list[Task]:
        """Runs of one wave as tasks, the unit that is scheduled. `group_places`: how many groups go on at once."""
        validation = {digest: name for name, digest in self._inputs.validation.items()}
        downstream = {digest: name for name, digest in self._inputs.tasks.items()}
        study, root = self.loaded.spec, str(self.storage.root)
        commands, own = split_commands(todo)
        means = (study.resources, downstream, study.deepspeed_engines(), group_places, study.own_resources)
        return make_tasks(own, root, validation, *means) + make_command_tasks(commands, root, validation, study)

    def tell_drift(self, state: StudyState) -> None:
        """Say, once, which frozen learning rates would be others if resolved anew."""
        for line in drift(state):
            if line not in self._told:
                self.progress.say(line, "warning")
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
