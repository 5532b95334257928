"""What a study will take: runs wanted, done and missing by protocol, tokens, FLOPs, time.

Runs that two protocols share are counted in both rows and once in the total.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from raystudy.specs.reading import Reading
from raystudy.specs.run import ProbeRun
from raystudy.study.lr_rules import drift
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun, by_id
from raystudy.study.waves import make_wave

ASSUMED_FLOPS_PER_SECOND = 3e10  # of one run on one core; an assumption (the demo measured 3.3e10) until records say


@dataclass(frozen=True)
class PlanRow:
    """One protocol (or the total). `waiting` runs are wanted but not named until a tuned LR is known."""

    protocol: str
    model: str
    wanted: int
    done: int
    missing: int
    waiting: int
    tokens: int
    flops: float
    seconds_left: float


@dataclass(frozen=True)
class Price:
    """What some runs take. `seconds`: with the plan's speed and places."""

    runs: int
    tokens: int
    flops: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.runs} runs, {self.tokens:,} tokens, {self.flops:.3g} FLOPs, about {self.seconds:,.0f} s"


@dataclass(frozen=True)
class Plan:
    """The rows, their total, and where the speed came from.

    `extension`: the most that grids may still add beyond their edges, in no row. `drift`: frozen learning rates that
    would be others if resolved anew.
    """

    rows: list[PlanRow]
    total: PlanRow
    extension: Price
    drift: list[str]
    flops_per_second: float
    is_measured: bool
    slots: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def make_plan(state: StudyState, slots: int) -> Plan:
    """The plan of a study whose runs take turns on `slots` places."""
    speed, is_measured = _speed(state)
    rows, waiting_total = [], 0
    everything: dict[str, WantedRun] = {}
    waiting_tokens, waiting_flops = 0, 0.0
    for name, protocol in protocols_of(state.study).items():
        demand = protocol.demand(state)
        waiting = sum(item.num_runs for item in demand.waiting)
        tokens, flops = sum(i.num_tokens for i in demand.waiting), sum(i.flops for i in demand.waiting)
        model = getattr(getattr(protocol, "spec", None), "model", "")
        rows.append(_row(state, name, model, demand.runs, (waiting, tokens, flops), speed * slots))
        everything = by_id(demand.runs, everything)
        waiting_total, waiting_tokens, waiting_flops = (
            waiting_total + waiting,
            waiting_tokens + tokens,
            waiting_flops + flops,
        )
    later = (waiting_total, waiting_tokens, waiting_flops)
    total = _row(state, "total", "", everything.values(), later, speed * slots)
    return Plan(rows, total, extension_price(state, slots), drift(state), speed, is_measured, slots)


def price_of(state: StudyState, slots: int, known: StudyState | None = None) -> Price:
    """What `state` wants and has not; less what `known`, the same study resolved otherwise, wants too."""
    wave, before = make_wave(state), make_wave(known) if known is not None else None
    runs = [run for run in wave.todo if before is None or run.run_id not in before.wanted]
    waiting = [item for name, item in wave.waiting if before is None or (name, item) not in before.waiting]
    flops = sum(run.flops for run in runs) + sum(item.flops for item in waiting)
    return Price(
        len(runs) + sum(item.num_runs for item in waiting),
        sum(run.run.num_tokens for run in runs) + sum(item.num_tokens for item in waiting),
        flops,
        flops / (_speed(state)[0] * slots),
    )


def extension_price(state: StudyState, slots: int, known: StudyState | None = None) -> Price:
    """The most that grids may still add beyond their edges; less what they may in `known` too."""
    before = make_wave(known).extensions if known is not None else ()
    items = [item for name, item in make_wave(state).extensions if (name, item) not in before]
    flops = sum(item.flops for item in items)
    seconds = flops / (_speed(state)[0] * slots)
    return Price(sum(item.num_runs for item in items), sum(item.num_tokens for item in items), flops, seconds)


def lacking_evaluations(state: StudyState) -> list[WantedRun]:
    """Runs on record that lack a validation set or a task, or a step or read-out that the study asks for.

    Kept weights make that an evaluation.
    """
    wanted = make_wave(state).wanted
    return [run for run in wanted.values() if state.record(run) is not None and not state.is_done(run)]


def lacking_readings(state: StudyState, run: WantedRun) -> list[Reading]:
    """The weights of a run on record that lack a validation set or a task; the last weights are a reading too."""
    record = state.record(run)
    if record is None or isinstance(run.run, ProbeRun):
        return []
    steps, sets, tasks = run.run.settings.steps, tuple(state.inputs.validation.values()), state.inputs.tasks.values()
    readings = () if record.is_measured(sets, steps, tasks=tasks) else (Reading(step=steps),)
    others = (r for r in run.asked.readings if not record.is_measured(sets, steps, (r,), tasks, last=False))
    return [*readings, *others]


def _row(
    state: StudyState, name: str, model: str, runs: Iterable[WantedRun], later: tuple[int, int, float], speed: float
) -> PlanRow:
    unique = by_id(runs).values()
    done = sum(state.is_done(run) for run in unique)
    left = sum(run.flops for run in unique if state.record(run) is None) + later[2]
    return PlanRow(
        protocol=name,
        model=model,
        wanted=len(unique) + later[0],
        done=done,
        missing=len(unique) - done,
        waiting=later[0],
        tokens=sum(run.run.num_tokens for run in unique) + later[1],
        flops=sum(run.flops for run in unique) + later[2],
        seconds_left=left / speed,
    )


def _speed(state: StudyState) -> tuple[float, bool]:
    """FLOPs per second of one run, from records of this study's runs, else the assumption."""
    flops = seconds = 0.0
    for protocol in protocols_of(state.study).values():
        for run in protocol.demand(state).runs:
            record = state.record(run)
            if record is not None and run.flops > 0 and record.seconds > 0:
                flops, seconds = flops + run.flops, seconds + record.seconds
    return (flops / seconds, True) if seconds else (ASSUMED_FLOPS_PER_SECOND, False)
