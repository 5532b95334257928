"""What a study will take: runs wanted, done and missing by protocol, tokens, FLOPs, time.

Runs that two protocols share are counted in both rows and once in the total.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from raystudy.specs.reading import Reading
from raystudy.specs.run import ProbeRun
from raystudy.study.lr_rules import drift
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.speeds import Flops, Kind, Speed, Speeds
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun, by_id
from raystudy.study.waves import make_wave


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
    would be others if resolved anew. Speed and `slots` are those of runs of one process; `groups`: those of the runs
    that several workers train together.
    """

    rows: list[PlanRow]
    total: PlanRow
    extension: Price
    drift: list[str]
    flops_per_second: float
    is_measured: bool
    slots: int
    groups: list[Speed]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def make_plan(state: StudyState, slots: int, num_gpus: int = 0) -> Plan:
    """The plan of a study whose runs take turns on `slots` places, of which a group of workers takes one for each.

    `num_gpus`: those that groups with GPUs may have.
    """
    speeds = Speeds(state, slots, num_gpus)
    rows, everything, later = [], dict[str, WantedRun](), _Later()
    for name, protocol in protocols_of(state.study).items():
        demand, kind = protocol.demand(state), speeds.kind_of_protocol(name)
        waiting = _Later()
        for item in demand.waiting:
            for waits in (waiting, later):
                waits.add(kind, item.num_runs, item.num_tokens, item.flops)
        model = getattr(getattr(protocol, "spec", None), "model", "")
        rows.append(_row(state, name, model, demand.runs, waiting, speeds))
        everything = by_id(demand.runs, everything)
    total = _row(state, "total", "", everything.values(), later, speeds)
    extension, speed = extension_price(state, slots, num_gpus=num_gpus), speeds.of_one_process()
    by_one = (speed.flops_per_second, speed.is_measured, slots)
    return Plan(rows, total, extension, drift(state), *by_one, speeds.of_groups())


def price_of(state: StudyState, slots: int, known: StudyState | None = None, num_gpus: int = 0) -> Price:
    """What `state` wants and has not; less what `known`, the same study resolved otherwise, wants too."""
    wave, before = make_wave(state), make_wave(known) if known is not None else None
    speeds, priced = Speeds(state, slots, num_gpus), _Later()
    for run in wave.todo:
        if before is None or run.run_id not in before.wanted:
            priced.add(speeds.kind_of(run), 1, run.run.num_tokens, run.flops)
    for name, item in wave.waiting:
        if before is None or (name, item) not in before.waiting:
            priced.add(speeds.kind_of_protocol(name), item.num_runs, item.num_tokens, item.flops)
    return priced.price(speeds)


def extension_price(state: StudyState, slots: int, known: StudyState | None = None, num_gpus: int = 0) -> Price:
    """The most that grids may still add beyond their edges; less what they may in `known` too."""
    before = make_wave(known).extensions if known is not None else ()
    speeds, priced = Speeds(state, slots, num_gpus), _Later()
    for name, item in make_wave(state).extensions:
        if (name, item) not in before:
            priced.add(speeds.kind_of_protocol(name), item.num_runs, item.num_tokens, item.flops)
    return priced.price(speeds)


@dataclass
class _Later:
    """Runs that are still to be made, in numbers."""

    runs: int = 0
    tokens: int = 0
    flops: Flops = field(default_factory=Flops)

    def add(self, kind: Kind, runs: int, tokens: int, flops: float) -> None:
        self.runs, self.tokens = self.runs + runs, self.tokens + tokens
        self.flops.add(kind, flops)

    def price(self, speeds: Speeds) -> Price:
        return Price(self.runs, self.tokens, self.flops.total, speeds.seconds(self.flops))


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


def _row(state: StudyState, name: str, model: str, runs: Iterable[WantedRun], later: _Later, speeds: Speeds) -> PlanRow:
    unique = by_id(runs).values()
    done = sum(state.is_done(run) for run in unique)
    left = Flops(dict(later.flops.by_kind))
    for run in unique:
        if state.record(run) is None:
            left.add(speeds.kind_of(run), run.flops)
    return PlanRow(
        protocol=name,
        model=model,
        wanted=len(unique) + later.runs,
        done=done,
        missing=len(unique) - done,
        waiting=later.runs,
        tokens=sum(run.run.num_tokens for run in unique) + later.tokens,
        flops=sum(run.flops for run in unique) + later.flops.total,
        seconds_left=speeds.seconds(left),
    )
