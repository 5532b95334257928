"""A point of a search space: a learning rate, and what it changes in the training settings besides."""

from dataclasses import dataclass
from typing import Any

Changes = tuple[tuple[str, float], ...]  # axis and value, in the order of AXES

# What a search space may sweep beside the learning rate.
AXES = ("batch_tokens", "weight_decay", "beta1", "beta2", "warmup", "tokens")


@dataclass(frozen=True, order=True)
class Point:
    """One setting of a sweep; a bare learning rate stands for the point that changes nothing else."""

    lr: float
    changes: Changes = ()

    @property
    def name(self) -> str:
        """For people and tables: `0.001`, or `0.001, weight_decay 0.1`."""
        return ", ".join([f"{self.lr:g}", *changes_in_words(self.changes)])

    @property
    def key(self) -> "float | Point":
        """What stands for this point where points are looked up: the learning rate alone, if that is all."""
        return self if self.changes else self.lr

    @property
    def settings(self) -> dict[str, Any]:
        """The changes, JSON-ready."""
        return dict(self.changes)


def changes_in_words(changes: Changes) -> list[str]:
    """`weight_decay 0.1` and the like, one text a change."""
    return [f"{axis} {value:,d}" if isinstance(value, int) else f"{axis} {value:g}" for axis, value in changes]


def point_of(value: "float | Point") -> Point:
    """The point that `value` stands for."""
    return value if isinstance(value, Point) else Point(value)
