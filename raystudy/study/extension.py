"""Grid extension: a sweep whose best point lies on its grid's edge is not tuned, and goes on beyond that edge.

Decided only when every point of the sweep has ended, so that the order of completion cannot change it; for all
recipes of a sweep alike, since unequal numbers of noisy points would favour some.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raystudy.specs.point import Point
from raystudy.specs.reading import Scoring
from raystudy.specs.space import SearchSpace
from raystudy.study.state import StudyState
from raystudy.study.sweep import read_sweep

SIDES = ("low", "high")


@dataclass(frozen=True)
class ExtendedGrid:
    """The points of a sweep as far as results ask for them, by learning rate.

    `most_more`: how many more learning rates may follow at most; 0 once it is settled.
    """

    points: tuple[Point, ...]
    most_more: int

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rates, ascending."""
        return tuple(sorted({point.lr for point in self.points}))


def extended_grid(
    state: StudyState,
    model: str,
    recipes: Sequence[str],
    space: SearchSpace,
    seeds: Sequence[int],
    scoring: Scoring | None = None,
) -> ExtendedGrid:
    """The points of one sweep: those of `space`, and what its results add on each side of the learning rates.

    A side goes on, by at most `extend` learning rates with all combinations of the other axes, while the best point
    of any recipe has the outermost one; a best point whose outer neighbour diverged is no edge. Other axes and random
    spaces do not go on.
    """
    key = ("extended grid", model, tuple(recipes), space, tuple(seeds), scoring)
    return state.once(key, lambda: _extend(state, model, recipes, space, seeds, scoring))


def _extend(
    state: StudyState,
    model: str,
    recipes: Sequence[str],
    space: SearchSpace,
    seeds: Sequence[int],
    scoring: Scoring | None,
) -> ExtendedGrid:
    if space.random is not None:
        return ExtendedGrid(space.points(), 0)
    axis, lrs = space.lr, space.lrs()
    left = {side: axis.extend for side in SIDES if axis.next_value(side, lrs[0 if side == "low" else -1]) is not None}
    while any(left.values()):
        sweeps = [read_sweep(state, model, recipe, space.points(lrs), seeds, None, scoring) for recipe in recipes]
        if not all(sweep.is_terminal for sweep in sweeps):
            # One recipe has one best point: it can go on on one side only.
            return ExtendedGrid(space.points(lrs), max(left.values()) if len(recipes) == 1 else sum(left.values()))
        edges = {sweep.edges.get("lr") for sweep in sweeps}
        # A side on which no recipe is best now stays closed: its outermost point will not become best later. So all
        # sides that are open have as many steps left.
        left = {side: steps - 1 for side, steps in left.items() if side in edges}
        added = {side: axis.next_value(side, lrs[0 if side == "low" else -1]) for side in left}
        left = {side: steps for side, steps in left.items() if added[side] is not None}
        lrs = tuple(sorted((*lrs, *(lr for lr in added.values() if lr is not None))))
    return ExtendedGrid(space.points(lrs), 0)
