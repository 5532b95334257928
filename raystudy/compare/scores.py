"""The scores that one protocol gives to recipes, seed by seed.

Knows nothing about runs, protocols or metrics; every score is lower-is-better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystudy.errors import DataError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one protocol, lower is better.

    `values` is [recipe, seed] in the metric's unit: NaN is missing, +inf diverged. `runs_per_score` is the
    number of seeds that the protocol advertises to average into one score (None: all of them). `noise_free`
    says that the values are exact (a known order), so that one column is enough for an interval.

    Raises DataError for a wrong shape, repeated recipes, no seed, -inf, or a number of seeds that
    `runs_per_score` does not divide.
    """

    name: str
    recipes: tuple[str, ...]
    values: FloatArray
    runs_per_score: int | None = None
    noise_free: bool = False

    def __post_init__(self) -> None:
        # A C-ordered copy: the order of summation, hence the last digit, must not depend on the caller's
        # layout.
        values = np.array(self.values, dtype=np.float64, order="C", copy=True)
        if values.ndim != 2 or values.shape[0] != len(self.recipes) or values.shape[1] < 1:
            raise DataError(
                f"Scores of '{self.name}' must be an array [recipe, seed] with {len(self.recipes)} rows and one "
                f"column or more, but its shape is {values.shape}. Give one row per recipe."
            )
        if len(set(self.recipes)) != len(self.recipes):
            twice = sorted({name for name in self.recipes if self.recipes.count(name) > 1})
            raise DataError(f"Each recipe of '{self.name}' must occur once, but {twice} occur twice. Drop one.")
        if np.isneginf(values).any():
            raise DataError(
                f"Scores of '{self.name}' must be finite, NaN (missing) or +inf (diverged), but -inf came. "
                "Mark a diverged run with +inf."
            )
        runs = self.runs_per_score
        if runs is not None and (runs < 1 or values.shape[1] % runs != 0):
            raise DataError(
                f"runs_per_score of '{self.name}' must divide its number of seeds, but {runs} does not divide "
                f"{values.shape[1]}. Add or leave out seeds."
            )
        values.setflags(write=False)
        object.__setattr__(self, "recipes", tuple(self.recipes))
        object.__setattr__(self, "values", values)

    @property
    def num_seeds(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    @property
    def runs_averaged(self) -> int:
        """Seeds averaged into one score: `runs_per_score`, or all of them."""
        return self.runs_per_score or self.num_seeds

    def restrict(self, recipes: Sequence[str]) -> Scores:
        """The same scores for `recipes` only, in that order. DataError for a recipe without a row."""
        row_of = {name: row for row, name in enumerate(self.recipes)}
        unknown = [name for name in recipes if name not in row_of]
        if unknown:
            raise DataError(f"'{self.name}' must have a score for every recipe asked for, but has none for {unknown}.")
        rows = [row_of[name] for name in recipes]
        return Scores(self.name, tuple(recipes), self.values[rows], self.runs_per_score, self.noise_free)

    def means(self) -> FloatArray:
        """Mean over all seeds, [recipe]: NaN where a seed is missing, else +inf where one diverged."""
        means: FloatArray = self.values.mean(axis=1)
        return means

    def groups(self) -> FloatArray:
        """Score vectors at the advertised number of runs, [group, recipe]: consecutive seeds averaged.

        A mean with a diverged member is +inf, one with a missing member NaN.
        """
        size = self.runs_averaged
        grouped = self.values.reshape(len(self.recipes), self.num_seeds // size, size)
        return np.ascontiguousarray(grouped.mean(axis=2).T)
