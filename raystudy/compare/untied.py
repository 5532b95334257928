"""Agreements of many pairs of score vectors without ties, from whole-number ranks.

The same numbers as `agreement` gives, some twenty times faster at 256 recipes: pairs are compared as small integers,
draws along the contiguous axis, and nothing of the size pairs x draws is kept. Knows nothing about seeds or intervals.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.compare.scores import BoolArray, FloatArray

# Draws compared at once: with 256 recipes, ranks of 0.5 MB a side, which stay in a processor's cache.
_BLOCK = 1024

RankArray = npt.NDArray[Any]


def untied_ranks(scores: FloatArray) -> RankArray | None:
    """Ranks from 0, [draw, recipe] to [recipe, draw] in the smallest unsigned type; None if any draw has a tie."""
    order = np.argsort(scores, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    # Two infinite scores are equal, NaN is neither above nor below.
    if not (ranked[:, 1:] > ranked[:, :-1]).all():
        return None
    num_recipes = scores.shape[1]
    kind = np.uint8 if num_recipes <= 256 else np.uint16 if num_recipes <= 65536 else np.uint32
    ranks = np.empty(scores.shape, dtype=kind)
    np.put_along_axis(ranks, order, np.arange(num_recipes, dtype=kind)[None, :], axis=1)
    return np.ascontiguousarray(ranks.T)


def rank_correlation(truth: RankArray, candidate: RankArray) -> FloatArray:
    """Spearman, [recipe, draw] ranks to [draw]: 1 - 6 sum d^2 / (n (n^2 - 1))."""
    n = truth.shape[0]
    squares = np.zeros(truth.shape[1])
    for a, b in zip(truth, candidate, strict=True):
        squares += (a.astype(np.float64) - b) ** 2
    found: FloatArray = 1.0 - 6.0 * squares / (n * (n * n - 1.0))
    return found


def discordant_pairs(
    truth: RankArray, candidate: RankArray, separable: BoolArray | None
) -> tuple[FloatArray, FloatArray | None]:
    """How many pairs are ordered differently, all and those of `separable` ([pair]); ranks [recipe, draw] to [draw]."""
    num_recipes, num_draws = truth.shape
    # The pairs of one recipe with later ones lie together in the order of `pair_indices`.
    starts = np.cumsum([0, *range(num_recipes - 1, 0, -1)])
    later = None
    if separable is not None:
        later = [np.flatnonzero(separable[start:end]) for start, end in itertools.pairwise(starts)]
    total = np.zeros(num_draws)
    among = None if later is None else np.zeros(num_draws)
    for block in (slice(start, start + _BLOCK) for start in range(0, num_draws, _BLOCK)):
        a, b = truth[:, block], candidate[:, block]
        for i in range(num_recipes - 1):
            differs = ((a[i] > a[i + 1 :]) != (b[i] > b[i + 1 :])).view(np.uint8)
            total[block] += differs.sum(axis=0, dtype=_counter(differs.shape[0]))
            if later is not None and among is not None and later[i].size:
                among[block] += differs[later[i]].sum(axis=0, dtype=_counter(later[i].size))
    return total, among


def _counter(most: int) -> Any:
    return np.uint8 if most <= 255 else np.uint32
