"""What one launch may spend: a number of runs, device time, what its study's budget has left. Chooses which runs of a
wave may start now.

Knows nothing of how runs are made. Device time of a run: the seconds it took (reading and evaluating included) times
the devices it holds, of failed runs and evaluations too. What runs ahead will take is guessed from runs of the same
model and kind that were made: in this launch or on record, whichever took longer; else at an assumed speed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raystudy.errors import SpecError
from raystudy.execute.utilisation import Devices
from raystudy.execute.work import RunReport
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import ProbeRun, TrainRun
from raystudy.specs.study import Resources
from raystudy.study.speeds import Kind, Speeds, assumed_flops_per_second
from raystudy.study.spending import SECONDS_PER_HOUR, Cost, Rates, StudySpending, limits, recorded_cost, tried_cost
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave

_ROUNDING = 1e-9  # of shares of devices


@dataclass(frozen=True)
class Budget:
    """The most that one launch may start and take; None: no limit.

    Raises:
        SpecError: a limit that is not above 0.
    """

    max_runs: int | None = None
    max_device_hours: float | None = None

    def __post_init__(self) -> None:
        if self.max_runs is not None and self.max_runs < 1:
            raise SpecError(f"--max-runs must be 1 or more, but got {self.max_runs}")
        if self.max_device_hours is not None and not self.max_device_hours > 0:
            raise SpecError(f"--max-device-hours must be above 0, but got {self.max_device_hours:g}")


@dataclass(frozen=True)
class _Limit:
    """One limit on what runs take: what is left in its unit, and what a run of so many seconds takes of it."""

    words: str
    left: float
    takes: Callable[[WantedRun, float], float]


class Spending:
    """What a launch has spent of its budget. `num_at_once`: how many runs go on at the same time, where nobody knows
    the devices that they are made on.

    `engines`: of those models, by name, whose runs several workers train together; `own`: the resources of those whose
    runs do not take `resources`. `tried`: seconds of earlier launches' failed tries, by run id, which count against
    the study's own budget.
    """

    def __init__(
        self,
        budget: Budget,
        resources: Resources,
        num_at_once: int,
        engines: Mapping[str, DeepSpeedEngine] | None = None,
        own: Mapping[str, Resources] | None = None,
    ) -> None:
        self._budget, self._engines, self._own = budget, engines or {}, own or {}
        self._resources = resources
        self._num_at_once = num_at_once
        self._devices: Devices | None = None
        self.num_started = 0
        self.device_seconds = 0.0
        self._seconds: dict[tuple[str, str], list[float]] = {}  # of runs made in this launch, by what they are like
        self.tried: Mapping[str, float] = {}
        self._failed = defaultdict[str, float](float)  # seconds of this launch's tries that failed, by run id
        self._unrecorded: list[tuple[WantedRun, float]] = []  # what went on in this launch and is on no record
        self._reached = ""

    def reported(self, run: WantedRun, report: RunReport, *, had_record: bool) -> None:
        """A run has ended, or failed, as its report says; `had_record`: one was there before this wave."""
        if report.tried_seconds:
            self.ended(run, report.tried_seconds, is_made=False, is_failed=True)
        is_failed = report.status == "failed"
        is_recorded = report.is_made or not (is_failed or had_record)
        self.ended(run, report.seconds, is_made=report.is_made, is_failed=is_failed, is_recorded=is_recorded)

    def ended(
        self, run: WantedRun, seconds: float, *, is_made: bool, is_failed: bool = False, is_recorded: bool | None = None
    ) -> None:
        """A run has ended, or failed, after so many seconds; with `is_made` they show what a training takes.

        `is_recorded`: they are part of the run's record; None: as `is_made`.
        """
        self.device_seconds += seconds * self._devices_of(run)
        if is_made:
            self._seconds.setdefault(_like(run), []).append(seconds)
        if not (is_made if is_recorded is None else is_recorded):
            self._unrecorded.append((run, seconds))
            self._failed[run.run_id] += seconds if is_failed else 0.0

    def affordable(
        self, todo: Sequence[WantedRun], state: StudyState, devices: Devices | None = None
    ) -> list[WantedRun]:
        """Those runs of `todo` that may start now; all where there is no limit, none where it is reached.

        With a limit on device time or money runs are let go in batches of at most half of what is left (as many as run
        at once, as long as those fit), of models that have not been timed only as many as run at once, so that a wrong
        guess is found out before it costs much. How many run at once `devices` decide, which are there now. What does
        not fit is passed over. No guess keeps a launch from starting: see `_within`.
        """
        chosen = list(todo)
        self._devices = devices
        self._reached = ""
        limits_now = self._limits(state)
        if chosen and limits_now:
            chosen = self._within(limits_now, chosen, state)
            if not chosen:
                self._reached = self._blocking(limits_now, todo, state).words
        if self._budget.max_runs is not None:
            chosen = chosen[: self._budget.max_runs - self.num_started]
        self.num_started += len(chosen)
        return chosen

    def _limits(self, state: StudyState) -> list[_Limit]:
        """Those of the launch, then those of the study, as they stand now."""
        found = []
        if self._budget.max_device_hours is not None:
            left = self._budget.max_device_hours * SECONDS_PER_HOUR - self.device_seconds
            spent = f"--max-device-hours {self._budget.max_device_hours:g}, of which "
            spent += f"{self.device_seconds / SECONDS_PER_HOUR:.3g} are used"
            found.append(_Limit(spent, left, lambda run, seconds: seconds * self._devices_of(run)))
        budget = state.study.budget
        if budget is None:
            return found
        rates = Rates(state)
        tried = {run_id: self.tried.get(run_id, 0.0) + self._failed[run_id] for run_id in {*self.tried, *self._failed}}
        before = recorded_cost(state, tried) + tried_cost(state, self.tried)
        cost = sum((rates.run(*took) for took in self._unrecorded), before)
        for limit in limits(StudySpending(cost, Cost(), True, budget)):
            is_money = limit.words.startswith("budget.money")
            words, takes = f"{limit.words}, of which {limit.spent:.3g} are used", _takes(rates, is_money=is_money)
            found.append(_Limit(words, limit.most - limit.spent, takes))
        return found

    def _within(self, limits_now: Sequence[_Limit], todo: list[WantedRun], state: StudyState) -> list[WantedRun]:
        """What fits, in the order of `todo`; before it one run of each kind whose speed is an assumption still.

        Such a run starts even where its estimate does not fit, the smallest of its kind, as does, where nothing fits,
        the smallest of a model that has not been timed: nothing else could show what it takes.
        """
        if any(limit.left <= 0 for limit in limits_now):
            return []
        fit, speeds = self._fitting(limits_now, todo, state), Speeds(state, 1)
        untimed = [run for run in sorted(todo, key=lambda run: run.flops) if self._timed(run, state) is None]
        first: dict[Kind, WantedRun] = {}
        for run in (*fit, *untimed):
            kind = speeds.kind_of(run)
            if self._timed(run, state) is None and not speeds.speed(kind).is_measured:
                first.setdefault(kind, run)
        measuring = list(first.values()) if fit or first else untimed[:1]
        of_those = {run.run_id for run in measuring}
        return measuring + [run for run in fit if run.run_id not in of_those]

    def _fitting(self, limits_now: Sequence[_Limit], todo: list[WantedRun], state: StudyState) -> list[WantedRun]:
        """Runs whose estimates fit into all limits together."""
        taken = [0.0] * len(limits_now)
        chosen: list[WantedRun] = []
        num_untimed = 0
        for run in todo:
            timed, at_once = self._timed(run, state), self._at_once(run)
            is_half = any(used > limit.left / 2 for used, limit in zip(taken, limits_now, strict=True))
            if timed is None and (num_untimed >= at_once or is_half):
                continue  # what is guessed takes no part of what runs with known times may need
            seconds = self._assumed(run) if timed is None else timed
            then = [used + limit.takes(run, seconds) for used, limit in zip(taken, limits_now, strict=True)]
            if any(used > limit.left for used, limit in zip(then, limits_now, strict=True)):
                continue
            is_enough = any(used > limit.left / 2 for used, limit in zip(then, limits_now, strict=True))
            if is_enough and len(chosen) >= at_once:
                break
            taken = then
            num_untimed += timed is None
            chosen.append(run)
        return chosen

    def _blocking(self, limits_now: Sequence[_Limit], todo: Sequence[WantedRun], state: StudyState) -> _Limit:
        """The first limit that nothing is left of, or that lets no run start; of several that together do, the first.

        Runs that are not timed yet are let start while anything is left, so all of `todo` are timed then.
        """
        for limit in limits_now:
            if limit.left <= 0 or all(limit.takes(run, self._timed(run, state) or 0.0) > limit.left for run in todo):
                return limit
        return limits_now[0]

    def _at_once(self, run: WantedRun) -> int:
        """How many runs like this one go on at the same time; at least one."""
        there = self._devices
        if there is None or there.cpus + there.gpus == 0:  # nobody knows, or a cluster that is still to grow
            return max(self._num_at_once, 1)
        is_on_gpu = self._device_of(run) == "cuda"
        return max(int((there.gpus if is_on_gpu else there.cpus) / self._devices_of(run) + _ROUNDING), 1)

    def _devices_of(self, run: WantedRun) -> float:
        """The devices that the run holds."""
        engine = self._engines.get(run.model) if isinstance(run.run, TrainRun) else None
        return self._own.get(run.model, self._resources).num_devices if engine is None else engine.num_devices

    def _device_of(self, run: WantedRun) -> str:
        engine = self._engines.get(run.model) if isinstance(run.run, TrainRun) else None
        return self._own.get(run.model, self._resources).device if engine is None else engine.device

    def _assumed(self, run: WantedRun) -> float:
        """The seconds of a run that nothing like it has been timed for."""
        engine = self._engines.get(run.model) if isinstance(run.run, TrainRun) else None
        workers = 0 if engine is None else engine.workers
        return run.flops / assumed_flops_per_second(workers, is_on_gpu=self._device_of(run) == "cuda")

    def _timed(self, run: WantedRun, state: StudyState) -> float | None:
        """Mean seconds of runs like `run`; None where there was none yet."""
        like = _like(run)
        recorded = state.once(("seconds", like), lambda: recorded_seconds(state, like))
        means = [sum(seconds) / len(seconds) for seconds in (recorded, self._seconds.get(like)) if seconds]
        return max(means, default=None)

    def words(self) -> str:
        """The limit that was reached, for a message."""
        return self._reached or f"--max-runs {self._budget.max_runs}"


def _takes(rates: Rates, *, is_money: bool) -> Callable[[WantedRun, float], float]:
    def takes(run: WantedRun, seconds: float) -> float:
        cost = rates.run(run, seconds)
        return cost.money if is_money else cost.device_hours

    return takes


def _like(run: WantedRun) -> tuple[str, str]:
    """The same for runs that take about as long: model and, of a probe, its kind."""
    return run.model, run.run.probe if isinstance(run.run, ProbeRun) else ""


def recorded_seconds(state: StudyState, like: tuple[str, str]) -> list[float]:
    """Seconds of the recorded runs of one model, or of its probes of one kind, that this study wants."""
    records = [state.record(run) for run in make_wave(state).wanted.values() if _like(run) == like]
    return [r.seconds for r in records if r is not None and r.status in ("finished", "diverged")]
