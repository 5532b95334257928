"""`wave(state) -> runs wanted and not done`: a pure function of study and records.

Whatever depends on results (a ratio to a tuned learning rate, a grid that goes on beyond its edge) waits in one wave
and is wanted in a later one.
"""

from dataclasses import dataclass

from raystudy.study.protocols.base import Extension, Waiting
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun, by_id


@dataclass(frozen=True)
class Wave:
    """Runs to make now, largest first; what waits, by protocol; all runs wanted so far, by run id.

    `extensions`: what the grids of sweeps that have not ended may still add, each sweep once.
    """

    todo: tuple[WantedRun, ...]
    waiting: tuple[tuple[str, Waiting], ...]
    wanted: dict[str, WantedRun]
    extensions: tuple[tuple[str, Extension], ...] = ()


def make_wave(state: StudyState) -> Wave:
    """The next wave of a study."""
    wanted: dict[str, WantedRun] = {}
    waiting: list[tuple[str, Waiting]] = []
    extensions: dict[str, tuple[str, Extension]] = {}
    for name, protocol in protocols_of(state.study).items():
        demand = protocol.demand(state)
        wanted = by_id(demand.runs, wanted)
        waiting.extend((name, item) for item in demand.waiting)
        for item in demand.extensions:
            extensions.setdefault(item.sweep, (name, item))
    todo = [run for run in wanted.values() if not state.is_done(run)]
    todo.sort(key=lambda run: (-run.flops, run.seed or 0))
    return Wave(tuple(todo), tuple(waiting), wanted, tuple(extensions.values()))


def waiting_lines(wave: Wave) -> list[str]:
    """What waits, in words: runs that rest on a learning rate not known yet, and grids that may have to go on."""
    lines = [f"{name}: {item.num_runs} runs wait for {item.reason}" for name, item in wave.waiting]
    return lines + [
        f"{name}: whether its sweep must go on beyond the grid's edge (at most {item.num_runs} runs) waits for every "
        f"point of that sweep"
        for name, item in wave.extensions
    ]
