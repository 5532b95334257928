"""Search spaces: which learning rates a sweep tries. Files of their own, shared by studies.

Knows nothing of models or of which recipes are swept.
"""

import math
from typing import Annotated

from pydantic import Field, model_validator

from raystudy.specs.base import Spec, round_significant

LR_DIGITS = 2  # significant digits of a learning rate that a rule or a log-grid works out

LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LogGrid(Spec):
    """`points` values from `low` to `high`, evenly spaced in log, at 2 significant digits."""

    low: LearningRate
    high: LearningRate
    points: int = Field(ge=2, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> "LogGrid":
        if self.low >= self.high:
            raise ValueError(f"low < high must hold, but got low={self.low:g}, high={self.high:g}")
        if len(set(self.values())) < self.points:
            raise ValueError(f"{self.points} points between {self.low:g} and {self.high:g} are closer than 2 digits")
        return self

    @property
    def ratio(self) -> float:
        """From a point to the next, before rounding."""
        return math.exp(math.log(self.high / self.low) / (self.points - 1))

    def values(self) -> tuple[float, ...]:
        """The grid, ascending."""
        step = math.log(self.high / self.low) / (self.points - 1)
        return tuple(round_significant(self.low * math.exp(step * i), LR_DIGITS) for i in range(self.points))


class LearningRateAxis(Spec):
    """The learning rates of a sweep: either listed (`grid`) or evenly spaced in log (`log_grid`).

    A sweep whose best point is on the grid's edge goes on there, up to `extend` points further on each side.
    """

    # Not strict: a rule inside another arrives as a Python list. Its items stay strict.
    grid: Annotated[tuple[LearningRate, ...], Field(strict=False, min_length=1)] | None = None
    log_grid: LogGrid | None = None
    extend: int = Field(default=2, ge=0, le=2, description="most points added on each side of a grid; 0: none")

    @model_validator(mode="after")
    def _one_rule(self) -> "LearningRateAxis":
        if (self.grid is None) == (self.log_grid is None):
            raise ValueError("exactly one of 'grid' and 'log_grid' must be given")
        if self.grid is not None and len({round_significant(value) for value in self.grid}) < len(self.grid):
            raise ValueError(f"the values of a grid must differ at 6 digits, but got {list(self.grid)}")
        return self

    def values(self) -> tuple[float, ...]:
        """All learning rates, ascending."""
        if self.grid is not None:
            return tuple(sorted(round_significant(value) for value in self.grid))
        assert self.log_grid is not None
        return self.log_grid.values()

    def next_value(self, side: str, edge: float) -> float | None:
        """The learning rate beyond `edge` on `side` (low or high), at 2 significant digits.

        `edge` times the grid's ratio; of a listed grid that of its two outermost points on that side. None for a
        grid of one point, and where rounding leaves nothing beyond the edge.
        """
        values = self.values()
        if len(values) < 2:
            return None
        pair = values[:2] if side == "low" else values[-2:]
        ratio = self.log_grid.ratio if self.log_grid is not None else pair[1] / pair[0]
        beyond = edge * ratio if side == "high" else edge / ratio
        if not math.isfinite(beyond):
            return None
        value = round_significant(beyond, LR_DIGITS)
        is_beyond = value > edge if side == "high" else 0 < value < edge
        return value if is_beyond and math.isfinite(value) else None


class SearchSpace(Spec):
    """The axes of a sweep. The learning rate is the only axis so far."""

    lr: LearningRateAxis
