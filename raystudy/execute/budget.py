"""What one launch may spend: a number of runs, device time. Chooses which runs of a wave may start now.

Knows nothing of how runs are made. Device time of a run: the seconds it took (reading and evaluating included) times
the devices it holds, of failed runs and evaluations too. What runs ahead will take is guessed from runs of the same
model and kind that were made: in this launch or on record, whichever took longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raystudy.errors import SpecError
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import ProbeRun, TrainRun
from raystudy.specs.study import Resources
from raystudy.study.speeds import ASSUMED_FLOPS_PER_SECOND
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave

_SECONDS_PER_HOUR = 3600.0


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


class Spending:
    """What a launch has spent of its budget. `num_at_once`: how many runs go on at the same time.

    `engines`: of those models, by name, whose runs several workers train together; `own`: the resources of those whose
    runs do not take `resources`.
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
        self.num_started = 0
        self.device_seconds = 0.0
        self._seconds: dict[tuple[str, str], list[float]] = {}  # of runs made in this launch, by what they are like

    def ended(self, run: WantedRun, seconds: float, *, is_made: bool) -> None:
        """A run has ended, or failed, after so many seconds; with `is_made` they show what a training takes."""
        self.device_seconds += seconds * self._devices_of(run)
        if is_made:
            self._seconds.setdefault(_like(run), []).append(seconds)

    def affordable(self, todo: Sequence[WantedRun], state: StudyState) -> list[WantedRun]:
        """The first runs of `todo` that may start now; all where there is no limit, none where it is reached.

        With a limit on device time runs are let go in batches of at most half of what is left (as many as run at
        once, as long as those fit), of a model that has not been timed only as many as run at once, so that a wrong
        guess is found out before it costs much.
        """
        chosen = list(todo)
        if self._budget.max_runs is not None:
            chosen = chosen[: self._budget.max_runs - self.num_started]
        if self._budget.max_device_hours is not None:
            chosen = self._within_time(chosen, state, self._budget.max_device_hours * _SECONDS_PER_HOUR)
        self.num_started += len(chosen)
        return chosen

    def _within_time(self, todo: list[WantedRun], state: StudyState, limit: float) -> list[WantedRun]:
        left, taken = limit - self.device_seconds, 0.0
        chosen: list[WantedRun] = []
        num_untimed = 0
        for run in todo if left > 0 else ():
            timed = self._timed(run, state)
            num_untimed += timed is None
            taken += (run.flops / ASSUMED_FLOPS_PER_SECOND if timed is None else timed) * self._devices_of(run)
            is_enough = num_untimed > self._num_at_once or (taken > left / 2 and len(chosen) >= self._num_at_once)
            if taken > left or is_enough:
                break
            chosen.append(run)
        return chosen

    def _devices_of(self, run: WantedRun) -> float:
        """The devices that the run holds."""
        engine = self._engines.get(run.model) if isinstance(run.run, TrainRun) else None
        return self._own.get(run.model, self._resources).num_devices if engine is None else engine.num_devices

    def _timed(self, run: WantedRun, state: StudyState) -> float | None:
        """Mean seconds of runs like `run`; None where there was none yet."""
        like = _like(run)
        recorded = state.once(("seconds", like), lambda: recorded_seconds(state, like))
        means = [sum(seconds) / len(seconds) for seconds in (recorded, self._seconds.get(like)) if seconds]
        return max(means, default=None)

    def words(self) -> str:
        """The limits, for a message."""
        parts = [f"--max-runs {self._budget.max_runs}"] if self._budget.max_runs is not None else []
        if self._budget.max_device_hours is not None:
            spent = self.device_seconds / _SECONDS_PER_HOUR
            parts.append(f"--max-device-hours {self._budget.max_device_hours:g}, of which {spent:.3g} are used")
        return " and ".join(parts)


def _like(run: WantedRun) -> tuple[str, str]:
    """The same for runs that take about as long: model and, of a probe, its kind."""
    return run.model, run.run.probe if isinstance(run.run, ProbeRun) else ""


def recorded_seconds(state: StudyState, like: tuple[str, str]) -> list[float]:
    """Seconds of the recorded runs of one model, or of its probes of one kind, that this study wants."""
    records = [state.record(run) for run in make_wave(state).wanted.values() if _like(run) == like]
    return [r.seconds for r in records if r is not None and r.status in ("finished", "diverged")]
