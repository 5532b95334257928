"""`wave(state) -> runs wanted and not done`: a pure function of study and records.

Whatever depends on results (a ratio to a tuned learning rate) waits in one wave and is wanted in a later one.
"""

from dataclasses import dataclass

from raystudy.study.protocols.base import Waiting
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState, WantedRun


@dataclass(frozen=True)
class Wave:
    """Runs to make now, largest first; what waits, by protocol; all runs wanted so far, by run id."""

    todo: tuple[WantedRun, ...]
    waiting: tuple[tuple[str, Waiting], ...]
    wanted: dict[str, WantedRun]


def make_wave(state: StudyState) -> Wave:
    """The next wave of a study."""
    wanted: dict[str, WantedRun] = {}
    waiting: list[tuple[str, Waiting]] = []
    for name, protocol in protocols_of(state.study).items():
        demand = protocol.demand(state)
        wanted.update({run.run_id: run for run in demand.runs if run.run_id not in wanted})
        waiting.extend((name, item) for item in demand.waiting)
    todo = [run for run in wanted.values() if not state.is_done(run)]
    todo.sort(key=lambda run: (-run.flops, run.seed or 0))
    return Wave(tuple(todo), tuple(waiting), wanted)
