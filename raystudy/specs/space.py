"""Search spaces: which learning rates and other settings a sweep tries. Files of their own, shared by studies.

A space is a grid (the product of its axes' values) or, with `random`, points drawn from its axes' ranges. Knows
nothing of models or of which recipes are swept.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field, model_validator

from raystudy.specs.base import Spec, round_significant
from raystudy.specs.point import AXES, Point

LR_DIGITS = 2  # significant digits of a learning rate that a rule or a log-grid works out
_DRAW_DIGITS = 3  # of a value that is drawn
_MOST_POINTS = 10_000  # of one space
_LISTED, _DRAWN = ("grid", "log_grid"), ("choice", "uniform", "log_uniform")

LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class _Limits:
    """What a setting may be: from `low` to `high`, which itself is allowed unless `is_open`."""

    low: float = 0.0
    high: float = math.inf
    is_open: bool = False
    is_whole: bool = False


LIMITS = {
    "lr": _Limits(low=math.ulp(0.0)),
    "batch_tokens": _Limits(low=1, is_whole=True),
    "weight_decay": _Limits(),
    "beta1": _Limits(high=1.0, is_open=True),
    "beta2": _Limits(high=1.0, is_open=True),
    "warmup": _Limits(high=1.0),
    "tokens": _Limits(low=1, is_whole=True),
}


class Range(Spec):
    """From `low` to `high`."""

    low: Number
    high: Number

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low < high must hold, but got low={self.low:g}, high={self.high:g}")
        return self


class LogRange(Range):
    """From `low` to `high`, both above 0, evenly in log."""

    low: LearningRate
    high: LearningRate


class LogGrid(LogRange):
    """`points` values from `low` to `high`, evenly spaced in log, at 2 significant digits."""

    points: int = Field(ge=2, le=1000)

    @model_validator(mode="after")
    def _apart(self) -> "LogGrid":
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


# Not strict: a rule inside another arrives as a Python list. Its items stay strict.
_Values = Annotated[tuple[Number, ...], Field(strict=False, min_length=1)]
_Rates = Annotated[tuple[LearningRate, ...], Field(strict=False, min_length=1)]


class SettingAxis(Spec):
    """The values of one setting: listed (`grid`) or evenly spaced in log (`log_grid`).

    In a random space: one of those listed (`choice`), or from a range, evenly (`uniform`) or evenly in log.
    """

    grid: _Values | None = None
    log_grid: LogGrid | None = None
    choice: _Values | None = None
    uniform: Range | None = None
    log_uniform: LogRange | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> "SettingAxis":
        if len(self.rules) != 1:
            others = "(in a random space of 'choice', 'uniform' and 'log_uniform')"
            raise ValueError(f"exactly one of 'grid' and 'log_grid' must be given {others}")
        for name in ("grid", "choice"):
            listed = getattr(self, name)
            if listed is not None and len({round_significant(value) for value in listed}) < len(listed):
                raise ValueError(f"the values of a {name} must differ at 6 digits, but got {list(listed)}")
        return self

    @property
    def rules(self) -> list[str]:
        """Which of the rules are given: one."""
        return [name for name in (*_LISTED, *_DRAWN) if getattr(self, name) is not None]

    @property
    def range(self) -> Range | None:
        """The range that values are drawn from, if they are."""
        return self.uniform or self.log_uniform

    def values(self) -> tuple[float, ...]:
        """All values that are listed or spaced, ascending; of a range its ends."""
        if self.log_grid is not None:
            return self.log_grid.values()
        if self.range is not None:
            return (self.range.low, self.range.high)
        return tuple(sorted(round_significant(value) for value in self.grid or self.choice or ()))

    def draw(self, share: float) -> float:
        """The value at `share` of the way, in [0, 1), through what may be drawn; at 3 significant digits."""
        if self.range is None:
            values = self.values()
            return values[int(share * len(values))]
        low, high = self.range.low, self.range.high
        is_log = self.log_uniform is not None
        value = low * math.exp(share * math.log(high / low)) if is_log else low + share * (high - low)
        return min(max(round_significant(value, _DRAW_DIGITS), low), high)

    def place(self, value: float) -> float:
        """Where `value` lies in the range, from 0 (low) to 1 (high); in log where values are drawn so."""
        assert self.range is not None
        low, high = self.range.low, self.range.high
        if self.log_uniform is not None:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


class LearningRateAxis(SettingAxis):
    """The learning rates of a sweep: either listed (`grid`) or evenly spaced in log (`log_grid`).

    A sweep whose best point is on the grid's edge goes on there, up to `extend` points further on each side.
    """

    grid: _Rates | None = None
    choice: _Rates | None = None
    extend: int = Field(default=2, ge=0, le=2, description="most points added on each side of a grid; 0: none")

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


class RandomSearch(Spec):
    """Points drawn from the axes' ranges; the same for all recipes. More points keep the first ones."""

    points: int = Field(ge=1, le=_MOST_POINTS)
    seed: int = Field(default=0, ge=0, lt=2**31)


class SearchSpace(Spec):
    """The axes of a sweep: the learning rate, and other settings if given. Their product, or with `random` a draw.

    `warmup` is a share of the steps; `tokens` takes the place of the budget, whatever it was given as.
    """

    lr: LearningRateAxis
    batch_tokens: SettingAxis | None = None
    weight_decay: SettingAxis | None = None
    beta1: SettingAxis | None = None
    beta2: SettingAxis | None = None
    warmup: SettingAxis | None = None
    tokens: SettingAxis | None = None
    random: RandomSearch | None = None

    @property
    def axes(self) -> dict[str, SettingAxis]:
        """All axes by name, the learning rate first."""
        named = ((name, getattr(self, name)) for name in ("lr", *AXES))
        return {name: axis for name, axis in named if axis is not None}

    @property
    def is_plain(self) -> bool:
        """Whether the learning rate is all that is swept."""
        return len(self.axes) == 1

    @model_validator(mode="after")
    def _axes_fit(self) -> "SearchSpace":
        allowed = _LISTED if self.random is None else _DRAWN
        for name, axis in self.axes.items():
            if axis.rules[0] not in allowed:
                kind = "a grid" if self.random is None else "a random space"
                rules = " or ".join(repr(rule) for rule in allowed)
                raise ValueError(f"an axis of {kind} has {rules}, but got {axis.rules[0]!r} for {name}")
            _check_limits(name, axis)
        if self.random is not None and self.lr.extend != LearningRateAxis.model_fields["extend"].default:
            raise ValueError("only a grid goes on beyond its edge, but got extend for a random space; leave it out")
        count = math.prod(len(axis.values()) for axis in self.axes.values()) if self.random is None else 1
        if count > _MOST_POINTS:
            raise ValueError(f"a space has at most {_MOST_POINTS} points, but got {count}; use `random`")
        if self.random is not None and len(set(self._points)) < self.random.points:
            raise ValueError(f"the axes give {len(set(self._points))} different points, but got {self.random.points}")
        return self

    def lrs(self) -> tuple[float, ...]:
        """The learning rates, ascending."""
        return self.lr.values() if self.random is None else tuple(sorted({point.lr for point in self._points}))

    def points(self, lrs: Sequence[float] | None = None) -> tuple[Point, ...]:
        """All points, by learning rate, then axis by axis; of a grid at other learning rates, where given."""
        return self._points if lrs is None else self._grid(lrs)

    @cached_property
    def _points(self) -> tuple[Point, ...]:
        if self.random is None:
            return self._grid(self.lr.values())
        return tuple(sorted(self._drawn(self.random.seed, place) for place in range(self.random.points)))

    def _grid(self, lrs: Sequence[float]) -> tuple[Point, ...]:
        others = {name: axis for name, axis in self.axes.items() if name != "lr"}
        combined = list(itertools.product(*(axis.values() for axis in others.values())))
        return tuple(_point(dict(zip(("lr", *others), (lr, *rest), strict=True))) for lr in lrs for rest in combined)

    def _drawn(self, seed: int, place: int) -> Point:
        """Point number `place`: each value from a hash of seed, axis and place, so that nothing else moves it."""
        values = {}
        for name, axis in self.axes.items():
            bits = hashlib.sha256(f"{seed} {name} {place}".encode()).digest()[:6]
            values[name] = axis.draw(int.from_bytes(bits) / 2**48)
        return _point(values)


def _point(values: dict[str, float]) -> Point:
    whole = {name: round(value) if LIMITS[name].is_whole else value for name, value in values.items()}
    return Point(whole.pop("lr"), tuple(whole.items()))


def _check_limits(name: str, axis: SettingAxis) -> None:
    limits, values = LIMITS[name], axis.values()
    low, high = values[0], values[-1]
    if low < limits.low or high > limits.high or (limits.is_open and high == limits.high):
        end = "" if math.isinf(limits.high) else f" and {'under' if limits.is_open else 'at most'} {limits.high:g}"
        least = "above 0" if name == "lr" else f"at least {limits.low:g}"
        raise ValueError(f"{name} must be {least}{end}, but got {low if low < limits.low else high:g}")
    if limits.is_whole and any(value != round(value) for value in axis.grid or axis.choice or ()):
        raise ValueError(f"{name} must be whole numbers, but got {list(values)}")
