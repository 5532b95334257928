"""A sweep: the runs of one recipe over a search space, and what its best point says.

A recipe's tuned loss is the loss at its best point. A best point on the edge of what was swept is flagged, axis by
axis; a learning rate whose outer neighbour diverged is no edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystudy.specs.point import Point, point_of
from raystudy.specs.reading import Scoring
from raystudy.specs.space import LIMITS, SearchSpace
from raystudy.study.state import StudyState

FloatArray = npt.NDArray[np.float64]
OUTER = 0.1  # share of a range on each side in which the best of random points counts as on the edge


@dataclass(frozen=True)
class Sweep:
    """Losses [point, seed] of one model on one recipe: NaN missing, inf diverged; learning rates ascend.

    `is_terminal`: every point has ended (finished, diverged or out of memory). `space`: where the points are from; a
    grid of learning rates where not given.
    """

    points: tuple[Point, ...]
    losses: FloatArray
    is_terminal: bool
    space: SearchSpace | None = None

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rates, ascending, each once."""
        return tuple(sorted({point.lr for point in self.points}))

    @property
    def is_complete(self) -> bool:
        """Whether every point has ended in a score: a sweep with a point out of memory is not tuned."""
        return self.is_terminal and not bool(np.isnan(self.losses).any())

    @property
    def means(self) -> FloatArray:
        """Seed means [point]; inf where any seed diverged, NaN where any is missing."""
        return np.asarray(self.losses.mean(axis=1))

    @property
    def best(self) -> int | None:
        """Index of the best point; None when none is finite."""
        means = self.means
        finite = np.isfinite(means)
        return int(np.argmin(np.where(finite, means, np.inf))) if finite.any() else None

    @property
    def best_point(self) -> Point | None:
        """The point with the lowest seed mean."""
        return None if self.best is None else self.points[self.best]

    @property
    def best_lr(self) -> float | None:
        """The learning rate of the best point."""
        return None if self.best_point is None else self.best_point.lr

    @property
    def edges(self) -> dict[str, str]:
        """'low' or 'high' by axis, where the best point has no worse finite neighbour on that side.

        Of random points: where it lies in the outer tenth of the axis's range. What has no values beyond (a setting's
        own limit, such as no weight decay) is no edge, and neither is the largest budget: more data are nearly always
        better. A setting with one value is not swept.
        """
        best = self.best_point
        if best is None:
            return {}
        sides = {axis: self._side(axis, value) for axis, value in (("lr", best.lr), *best.changes)}
        return {axis: side for axis, side in sides.items() if side is not None}

    def _side(self, axis: str, value: float) -> str | None:
        if self.space is not None and self.space.random is not None:
            drawn = self.space.axes[axis]
            if drawn.range is None:
                return None
            place, ends = drawn.place(value), (drawn.range.low, drawn.range.high)
            side = "high" if place > 1 - OUTER else "low" if place < OUTER else ""
        else:
            values = self.lrs if axis == "lr" else sorted({point.settings[axis] for point in self.points})
            if axis != "lr" and len(values) < 2:
                return None
            ends = (values[0], values[-1])
            side = "high" if value == ends[1] else "low" if value == ends[0] else ""
        has_more = {"low": ends[0] > LIMITS[axis].low, "high": ends[1] < LIMITS[axis].high and axis != "tokens"}
        return side if has_more.get(side) else None

    @property
    def edge(self) -> str | None:
        """`edges` in words: 'low' or 'high', with the axis where others than the learning rate are swept."""
        if self.space is None or self.space.is_plain:
            return self.edges.get("lr")
        return ", ".join(f"{axis} {side}" for axis, side in self.edges.items()) or None

    @property
    def diverged_lrs(self) -> tuple[float, ...]:
        """Learning rates at which a seed diverged, at whatever other settings."""
        return tuple(
            sorted({point.lr for point, row in zip(self.points, self.losses, strict=True) if np.isinf(row).any()})
        )

    @property
    def profile(self) -> list[int]:
        """For every learning rate the index of its best point over the other axes; the first where none is finite."""
        means = np.where(np.isfinite(self.means), self.means, np.inf)
        at = {lr: [place for place, point in enumerate(self.points) if point.lr == lr] for lr in self.lrs}
        return [min(places, key=lambda place: means[place]) for places in at.values()]


def read_sweep(
    state: StudyState,
    model: str,
    recipe: str,
    points: Sequence[Point | float],
    seeds: Sequence[int],
    metric: str | None = None,
    scoring: Scoring | None = None,
    *,
    space: SearchSpace | None = None,
) -> Sweep:
    """The sweep of `model` on `recipe`, as far as its records go; on the study's primary metric unless told."""
    runs = [[state.want(model, recipe, point, seed, scoring) for seed in seeds] for point in points]
    losses = [[state.loss(run, metric or state.primary_metric) for run in row] for row in runs]
    is_terminal = all(state.is_done(run) for row in runs for run in row)
    return Sweep(tuple(map(point_of, points)), np.array(losses, dtype=np.float64), is_terminal, space)
