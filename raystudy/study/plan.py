"""What a study will take: runs wanted, done and missing by protocol, tokens, FLOPs, time.

Runs that two protocols share are counted in both rows and once in the total.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState, WantedRun

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
class Plan:
    """The rows, their total, and where the speed came from."""

    rows: list[PlanRow]
    total: PlanRow
    flops_per_second: float
    is_measured: bool
    slots: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def make_plan(state: StudyState, slots: int) -> Plan:
    """The plan of a study whose runs take turns on `slots` places."""
    speed, is_measured = _speed(state)
    rows, everything, waiting_total = [], {}, 0
    waiting_tokens, waiting_flops = 0, 0.0
    for name, protocol in protocols_of(state.study).items():
        demand = protocol.demand(state)
        waiting = sum(item.num_runs for item in demand.waiting)
        tokens, flops = sum(i.num_tokens for i in demand.waiting), sum(i.flops for i in demand.waiting)
        model = getattr(state.study.protocols[name], "model", "")
        rows.append(_row(state, name, model, demand.runs, (waiting, tokens, flops), speed * slots))
        everything.update({run.run_id: run for run in demand.runs})
        waiting_total, waiting_tokens, waiting_flops = (
            waiting_total + waiting,
            waiting_tokens + tokens,
            waiting_flops + flops,
        )
    later = (waiting_total, waiting_tokens, waiting_flops)
    total = _row(state, "total", "", everything.values(), later, speed * slots)
    return Plan(rows, total, speed, is_measured, slots)


def lacking_evaluations(state: StudyState) -> list[WantedRun]:
    """Runs that finished, but not on all of the study's validation sets: kept weights make that an evaluation."""
    runs = {run.run_id: run for protocol in protocols_of(state.study).values() for run in protocol.demand(state).runs}
    return [run for run in runs.values() if state.record(run) is not None and not state.is_done(run)]


def _row(
    state: StudyState, name: str, model: str, runs: Iterable[WantedRun], later: tuple[int, int, float], speed: float
) -> PlanRow:
    unique = {run.run_id: run for run in runs}.values()
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
            if record is not None and record.device_seconds > 0:
                flops, seconds = flops + run.flops, seconds + record.device_seconds
    return (flops / seconds, True) if seconds else (ASSUMED_FLOPS_PER_SECOND, False)
