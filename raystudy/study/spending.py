"""What a study has cost and what its missing runs will: device-hours, and money where the study file has prices.

Spent: the records of all runs that the study wants (whichever study or launch made them) and what failed tries say.
What a try had done up to the checkpoint that the next went on from is part of both, and counted once. Not counted:
evaluations of kept weights made by earlier launches, and what tries whose driver died with them had done since their
last checkpoint. Missing: FLOPs at the speed that the records show, else at an assumed one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raystudy.artifacts.results import Record
from raystudy.artifacts.storage import Storage
from raystudy.specs.run import TrainRun
from raystudy.specs.study_budget import StudyBudget
from raystudy.study.protocols.training_kinds import TRAINING_KINDS
from raystudy.study.speeds import Speeds
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Cost:
    """Device-hours, and what they cost in the budget's currency (0 where there are no prices)."""

    device_hours: float = 0.0
    money: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.device_hours + other.device_hours, self.money + other.money)


class Rates:
    """What a run holds while it goes on, and what that costs; `state`: which GPUs the study's records name."""

    def __init__(self, state: StudyState) -> None:
        self._study, self._engines = state.study, state.study.deepspeed_engines()
        budget = state.study.budget
        self._prices = None if budget is None else budget.prices
        seen = {name for record in state.records.values() if (name := _gpu_of(record)) is not None}
        self._gpu = max((self._prices.gpu(name) for name in seen), default=self._prices.gpu()) if self._prices else 0.0

    def run(self, run: WantedRun, seconds: float) -> Cost:
        """Of a run that takes, or took without leaving a record, so many seconds."""
        return self._cost(run.model, seconds, is_training=isinstance(run.run, TrainRun))

    def protocol(self, name: str, seconds: float) -> Cost:
        """Of runs that a protocol cannot name yet, so many seconds in all."""
        spec = self._study.protocols.get(name) or self._study.protocols[name.rpartition("@step")[0]]
        is_training = spec.kind in TRAINING_KINDS
        return self._cost(getattr(spec, "model", None) or "", seconds, is_training=is_training)

    def record(self, record: Record, tried: float = 0.0) -> Cost:
        """Of a run on record, on whatever device it was made, beside tries of it that took `tried` seconds.

        What went by before its last try began is among these, as far as these are known.
        """
        seconds = record.used_seconds - min(record.earlier_seconds, tried)
        hours = seconds * record.num_devices / SECONDS_PER_HOUR
        if self._prices is None:
            return Cost(hours)
        name = _gpu_of(record)
        price = (self._prices.cpu_core or 0.0) if name is None else self._prices.gpu(name)
        return Cost(hours, hours * price)

    def _cost(self, model: str, seconds: float, *, is_training: bool) -> Cost:
        engine = self._engines.get(model) if is_training else None
        held = self._study.resources_of(model) if engine is None else engine
        hours = seconds * held.num_devices / SECONDS_PER_HOUR
        if self._prices is None:
            return Cost(hours)
        return Cost(hours, hours * (self._gpu if held.device == "cuda" else self._prices.cpu_core or 0.0))


def _gpu_of(record: Record) -> str | None:
    """The name of the GPU that a run was made on, empty where its record does not say; None for one on CPUs."""
    made = record.result.get("provenance", {})
    return str(made.get("device_name", "")) if str(made.get("device", "cpu")).startswith("cuda") else None


def recorded_cost(state: StudyState, tried: Mapping[str, float]) -> Cost:
    """Of all runs on record that the study wants, beside tries that took `tried` seconds, by run id."""
    rates = Rates(state)
    records = (state.record(run) for run in make_wave(state).wanted.values())
    costs = (rates.record(record, tried.get(record.run_id, 0.0)) for record in records if record is not None)
    return sum(costs, Cost())


def tried_cost(state: StudyState, tried: Mapping[str, float]) -> Cost:
    """Of tries that took so many seconds, by the id of a wanted run."""
    rates, wanted = Rates(state), make_wave(state).wanted
    return sum((rates.run(wanted[run_id], seconds) for run_id, seconds in tried.items()), Cost())


def tried_seconds(state: StudyState, storage: Storage) -> dict[str, float]:
    """What tries that failed took, by run id, as far as they say. Reads the attempts of every wanted run."""
    compacted = storage.study(state.study.name).compacted
    attempts = storage.runs.read_all_attempts(make_wave(state).wanted, compacted)
    return {run_id: seconds for run_id, each in attempts.items() if (seconds := _seconds_of(each))}


def _seconds_of(attempts: Iterable[Mapping[str, Any]]) -> float:
    given = (attempt.get("seconds") for attempt in attempts)
    return sum(float(seconds) for seconds in given if isinstance(seconds, int | float) and seconds > 0)


@dataclass(frozen=True)
class StudySpending:
    """A study's cost at one moment. `is_measured`: the speed behind `missing` is that of records, for all its kinds."""

    spent: Cost
    missing: Cost
    is_measured: bool
    budget: StudyBudget | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; money is null where there are no prices."""
        prices = self.budget.prices if self.budget else None

        def plain(cost: Cost) -> dict[str, float | None]:
            return {"device_hours": cost.device_hours, "money": None if prices is None else cost.money}

        told = {"spent": plain(self.spent), "missing": plain(self.missing), "is_measured": self.is_measured}
        return {**told, "budget": None if self.budget is None else self.budget.model_dump(mode="json")}

    def lines(self) -> list[str]:
        """What a person is told."""
        source = "" if self.is_measured else ", at an assumed speed until runs are measured"
        spent, missing = _words(self.spent, self.budget), _words(self.missing, self.budget)
        lines = [f"cost: {spent} spent, about {missing} for what is missing{source}"]
        if self.budget is None:
            return lines
        if self.budget.prices is not None:
            lines[0] += f"; prices as of {self.budget.prices.as_of}"
        lines += [
            f"budget: {limit.words}, of which {limit.spent:.3g} are spent and about {limit.missing:.3g} wanted"
            for limit in limits(self)
        ]
        over = over_budget(self)
        return [*lines, f"OVER BUDGET: {over}"] if over else lines


@dataclass(frozen=True)
class Limit:
    """One limit of a study's budget; all numbers in its unit. `words`: with its name."""

    words: str
    most: float
    spent: float
    missing: float


def limits(spending: StudySpending) -> list[Limit]:
    """The limits of a study's budget, and how they stand."""
    budget, spent, missing = spending.budget, spending.spent, spending.missing
    found = []
    if budget is not None and budget.device_hours is not None:
        words = f"budget.device_hours {budget.device_hours:g}"
        found.append(Limit(words, budget.device_hours, spent.device_hours, missing.device_hours))
    if budget is not None and budget.money is not None:
        words = f"budget.money {budget.money:g} {budget.currency}"
        found.append(Limit(words, budget.money, spent.money, missing.money))
    return found


def over_budget(
    spending: StudySpending,
    what: str = "what is missing",
    measuring: str = "`raystudy run STUDY --max-runs 4`, on the devices of the study,",
) -> str | None:
    """Why `what` must not be started, with the way out; None where it fits into the study's budget.

    `measuring`: what shows the speed where it is an assumption.
    """
    for limit in limits(spending):
        left = limit.most - limit.spent
        if limit.missing > left:
            way_out = "Raise the budget, or take recipes, seeds or learning rates out of the study"
            speed = "" if spending.is_measured else " at an assumed speed"
            if speed:
                way_out += f". {measuring} measures the speed"
            return (
                f"{what} must fit into {limit.words}, of which {max(left, 0.0):.3g} are left, but is "
                f"estimated at {limit.missing:.3g}{speed}. {way_out}"
            )
    return None


def read_spending(state: StudyState, storage: Storage, slots: int = 1, num_gpus: int = 0) -> StudySpending:
    """What the study has cost and will, from its records; failed tries are read where it has a budget."""
    rates, speeds, wave = Rates(state), Speeds(state, slots, num_gpus), make_wave(state)
    missing, is_measured = Cost(), True
    for run in wave.todo:
        if state.record(run) is None:
            speed = speeds.speed(speeds.kind_of(run))
            missing += rates.run(run, run.flops / speed.flops_per_second)
            is_measured &= speed.is_measured
    for name, item in wave.waiting:
        speed = speeds.speed(speeds.kind_of_protocol(name))
        missing += rates.protocol(name, item.flops / speed.flops_per_second)
        is_measured &= speed.is_measured
    tried = {} if state.study.budget is None else tried_seconds(state, storage)
    spent = recorded_cost(state, tried) + tried_cost(state, tried)
    return StudySpending(spent, missing, is_measured, state.study.budget)


def _words(cost: Cost, budget: StudyBudget | None) -> str:
    money = f" ({cost.money:.3g} {budget.currency})" if budget is not None and budget.prices is not None else ""
    return f"{cost.device_hours:.3g} device-hours{money}"
