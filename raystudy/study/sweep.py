"""A sweep: the runs of one recipe over a search space, and what its best point says.

A recipe's tuned loss is the loss at its best learning rate. A best point on the grid's edge is flagged; one
whose outer neighbour diverged is no edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystudy.specs.reading import Scoring
from raystudy.study.state import StudyState

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """Losses [lr, seed] of one model on one recipe: NaN missing, inf diverged; learning rates ascend.

    `is_terminal`: every point has ended (finished, diverged or out of memory).
    """

    lrs: tuple[float, ...]
    losses: FloatArray
    is_terminal: bool

    @property
    def is_complete(self) -> bool:
        """Whether every point has ended in a score: a sweep with a point out of memory is not tuned."""
        return self.is_terminal and not bool(np.isnan(self.losses).any())

    @property
    def means(self) -> FloatArray:
        """Seed means [lr]; inf where any seed diverged, NaN where any is missing."""
        return np.asarray(self.losses.mean(axis=1))

    @property
    def best(self) -> int | None:
        """Index of the best learning rate; None when none is finite."""
        means = self.means
        finite = np.isfinite(means)
        return int(np.argmin(np.where(finite, means, np.inf))) if finite.any() else None

    @property
    def best_lr(self) -> float | None:
        """The learning rate with the lowest seed mean."""
        return None if self.best is None else self.lrs[self.best]

    @property
    def edge(self) -> str | None:
        """'low' or 'high' when the best point has no worse finite neighbour on that side."""
        if self.best is None:
            return None
        if self.best == len(self.lrs) - 1:
            return "high"
        return "low" if self.best == 0 else None

    @property
    def diverged_lrs(self) -> tuple[float, ...]:
        """Learning rates at which a seed diverged."""
        return tuple(lr for lr, row in zip(self.lrs, self.losses, strict=True) if np.isinf(row).any())


def read_sweep(
    state: StudyState,
    model: str,
    recipe: str,
    lrs: Sequence[float],
    seeds: Sequence[int],
    metric: str | None = None,
    scoring: Scoring | None = None,
) -> Sweep:
    """The sweep of `model` on `recipe`, as far as its records go; on the study's primary metric unless told."""
    runs = [[state.want(model, recipe, lr, seed, scoring) for seed in seeds] for lr in lrs]
    losses = [[state.loss(run, metric or state.primary_metric) for run in row] for row in runs]
    is_terminal = all(state.is_done(run) for row in runs for run in row)
    return Sweep(tuple(lrs), np.array(losses, dtype=np.float64), is_terminal)
