"""Grid extension: a sweep whose best point lies on its grid's edge is not tuned, and goes on beyond that edge.

Decided only when every point of the sweep has ended, so that the order of completion cannot change it; for all
recipes of a sweep alike, since unequal numbers of noisy points would favour some.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raystudy.specs.reading import Scoring
from raystudy.specs.space import LearningRateAxis
from raystudy.study.state import StudyState
from raystudy.study.sweep import read_sweep

SIDES = ("low", "high")


@dataclass(frozen=True)
class ExtendedGrid:
    """The learning rates of a sweep as far as results ask for them, ascending.

    `most_more`: how many more may follow at most; 0 once it is settled.
    """

    lrs: tuple[float, ...]
    most_more: int


def extended_grid(
    state: StudyState,
    model: str,
    recipes: Sequence[str],
    axis: LearningRateAxis,
    seeds: Sequence[int],
    scoring: Scoring | None = None,
) -> ExtendedGrid:
    """The grid of one sweep: that of `axis`, and what its results add on each side, at most `axis.extend` points.

    A side goes on while the best point of any recipe is its outermost one; a best point whose outer neighbour
    diverged is no edge.
    """
    key = ("extended grid", model, tuple(recipes), axis, tuple(seeds), scoring)
    return state.once(key, lambda: _extend(state, model, recipes, axis, seeds, scoring))


def _extend(
    state: StudyState,
    model: str,
    recipes: Sequence[str],
    axis: LearningRateAxis,
    seeds: Sequence[int],
    scoring: Scoring | None = None,
) -> ExtendedGrid:
    lrs = axis.values()
    left = {side: axis.extend for side in SIDES if axis.next_value(side, lrs[0 if side == "low" else -1]) is not None}
    while any(left.values()):
        sweeps = [read_sweep(state, model, recipe, lrs, seeds, None, scoring) for recipe in recipes]
        if not all(sweep.is_terminal for sweep in sweeps):
            # One recipe has one best point: it can go on on one side only.
            return ExtendedGrid(lrs, max(left.values()) if len(recipes) == 1 else sum(left.values()))
        edges = {sweep.edge for sweep in sweeps}
        # A side on which no recipe is best now stays closed: its outermost point will not become best later. So all
        # sides that are open have as many steps left.
        left = {side: steps - 1 for side, steps in left.items() if side in edges}
        added = {side: axis.next_value(side, lrs[0 if side == "low" else -1]) for side in left}
        left = {side: steps for side, steps in left.items() if added[side] is not None}
        lrs = tuple(sorted((*lrs, *(lr for lr in added.values() if lr is not None))))
    return ExtendedGrid(lrs, 0)
