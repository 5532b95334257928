"""What is lost, in the truth's unit, by choosing k recipes by the candidate's scores.

best-of-k: min over top-k(candidate) of the truth, minus the truth's min. mean-of-k: mean over
top-k(candidate) of the truth, minus its mean over top-k(truth). Ties at the cut: the mean over all orders of
the tied. Knows nothing about seeds or intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from raystudy.compare.scores import FloatArray
from raystudy.errors import DataError


def best_of_k(truth: FloatArray, candidate: FloatArray, k: int) -> float:
    """Expected best-of-k regret of 1-D scores, >= 0. DataError unless 1 <= k <= number of recipes."""
    chosen, tied, num_from_tied = _top(truth, candidate, k)
    best_chosen = float(chosen.min()) if chosen.size else np.inf
    if num_from_tied == tied.size:
        return float(min(best_chosen, tied.min()) - truth.min())
    # The i-th best of t tied is the best of r drawn without replacement with probability
    # C(t - i, r - 1) / C(t, r) (i from 1): the other r - 1 come from the t - i worse ones.
    num_tied = tied.size
    expected = 0.0
    for place, loss in enumerate(np.sort(tied), start=1):
        weight = comb(num_tied - place, num_from_tied - 1) / comb(num_tied, num_from_tied)
        expected += weight * (min(best_chosen, float(loss)) - float(truth.min()))
    return expected


def mean_of_k(truth: FloatArray, candidate: FloatArray, k: int) -> float:
    """Expected mean-of-k regret of 1-D scores, >= 0. DataError unless 1 <= k <= number of recipes."""
    chosen, tied, num_from_tied = _top(truth, candidate, k)
    if num_from_tied == tied.size:
        picked = np.sort(np.concatenate([chosen, tied])).sum()
    else:
        picked = chosen.sum() + num_from_tied * tied.mean()
    # Both sums run in ascending order of loss, so a perfect choice costs exactly 0; rounding may not go below.
    return max(0.0, float((picked - np.sort(truth)[:k].sum()) / k))


def _top(truth: FloatArray, candidate: FloatArray, k: int) -> tuple[FloatArray, FloatArray, int]:
    """Truth of the recipes surely in the candidate's top k, of those tied at the cut, and how many of them enter."""
    if not 1 <= k <= truth.size:
        raise DataError(f"1 <= k <= number of recipes must hold, but got k = {k} for {truth.size} recipes.")
    cut = np.sort(candidate)[k - 1]
    chosen = truth[candidate < cut]
    return chosen, truth[candidate == cut], k - chosen.size


def regrets(
    truth: FloatArray, candidate: FloatArray, ks: Sequence[int], tie_breaker: np.random.Generator | None
) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Both regrets for many score vectors at once: k to (best-of-k, mean-of-k), each [...].

    `truth` and `candidate` are [..., recipe] of one shape. Ties in `candidate` are broken at random by
    `tie_breaker`, which is right in expectation; without one they must not occur (scores with continuous
    noise).
    """
    if tie_breaker is None:
        order = np.argsort(candidate, axis=-1)
    else:
        order = np.lexsort((tie_breaker.random(candidate.shape), candidate), axis=-1)
    top = max(ks)
    chosen = np.take_along_axis(truth, order[..., :top], axis=-1)
    ideal = np.sort(truth, axis=-1)[..., :top]
    best = np.minimum.accumulate(chosen, axis=-1) - ideal[..., :1]
    gap = np.cumsum(chosen, axis=-1) - np.cumsum(ideal, axis=-1)
    return {k: (best[..., k - 1], np.maximum(gap[..., k - 1], 0.0) / k) for k in ks}
