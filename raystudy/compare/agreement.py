"""Agreement of two score vectors: Spearman, Kendall tau-b, Pearson, decision accuracy.

Every function takes arrays [..., recipe], broadcasts over the leading axes and returns [...]; what is
undefined is NaN. Knows nothing about seeds, noise or intervals. +inf (diverged) ranks as tied worst.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from raystudy.compare.scores import BoolArray, FloatArray

SignArray = npt.NDArray[np.int8]


def pair_indices(num_recipes: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the unordered pairs, in the order in which every list of pairs here stands."""
    first, second = np.triu_indices(num_recipes, k=1)
    return first, second


def pair_signs(scores: FloatArray) -> SignArray:
    """Sign of first minus second for each unordered pair: [..., recipe] to [..., pair]. Two +inf are tied."""
    first, second = pair_indices(scores.shape[-1])
    a, b = scores[..., first], scores[..., second]
    # Not a difference: inf - inf would be NaN.
    signs: SignArray = (a > b).view(np.int8) - (a < b).view(np.int8)
    return signs


def pearson(truth: FloatArray, candidate: FloatArray) -> FloatArray:
    """Product-moment correlation, [..., recipe] to [...]; NaN if either is constant or not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a = truth - truth.mean(axis=-1, keepdims=True)
        b = candidate - candidate.mean(axis=-1, keepdims=True)
        cross = (a * b).sum(axis=-1)
        r = np.clip(cross / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1)), -1.0, 1.0)
        # The mean of equal numbers may differ from them in the last digit, so a zero sum is no test of this.
        constant = (np.ptp(truth, axis=-1) == 0.0) | (np.ptp(candidate, axis=-1) == 0.0)
    return np.where(constant, np.nan, r)


def spearman(truth: FloatArray, candidate: FloatArray) -> FloatArray:
    """Pearson correlation of mean ranks, [..., recipe] to [...]."""
    return pearson(mean_ranks(truth), mean_ranks(candidate))


def mean_ranks(scores: FloatArray) -> FloatArray:
    """Ranks from 1, ties sharing their mean: [..., recipe] to [..., recipe]."""
    return np.asarray(stats.rankdata(scores, axis=-1), dtype=np.float64)


def kendall_tau_b(truth: FloatArray, candidate: FloatArray) -> FloatArray:
    """Kendall's tau-b (Kendall 1945), [..., recipe] to [...]."""
    return tau_b_of_signs(pair_signs(truth), pair_signs(candidate))


def tau_b_of_signs(truth: SignArray, candidate: SignArray) -> FloatArray:
    """Tau-b from pair signs, [..., pair] to [...]."""
    concordance = _count(truth * candidate)
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: FloatArray = concordance / np.sqrt(_count(np.abs(truth)) * _count(np.abs(candidate)))
    return tau


def decision_accuracy(truth: FloatArray, candidate: FloatArray, pairs: BoolArray | None = None) -> FloatArray:
    """Share of pairs with different truth that the candidate orders alike; a candidate's tie counts half.

    [..., recipe] to [...]. `pairs` ([pair], in the order of `pair_indices`) restricts the pairs that count.
    NaN if no pair is left.
    """
    truth_signs, candidate_signs = pair_signs(truth), pair_signs(candidate)
    if pairs is not None:
        truth_signs, candidate_signs = truth_signs[..., pairs], candidate_signs[..., pairs]
    return accuracy_of_signs(truth_signs, candidate_signs)


def accuracy_of_signs(truth: SignArray, candidate: SignArray) -> FloatArray:
    """Decision accuracy from pair signs, [..., pair] to [...]."""
    # Over pairs with different truth, (1 + product of signs) / 2 is 1, 1/2 or 0; the product is 0 elsewhere.
    num_pairs = _count(np.abs(truth))
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy: FloatArray = 0.5 + 0.5 * _count(truth * candidate) / num_pairs
    return accuracy


def _count(signs: SignArray) -> FloatArray:
    return np.asarray(signs.sum(axis=-1, dtype=np.int32), dtype=np.float64)
