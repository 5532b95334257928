"""Which pairs of recipes the truth tells apart beyond seed noise.

Decided on the same seeds that are scored, hence the label `same-seeds`: a pair whose noise happened to be
large is more likely to be in the list. Knows nothing about candidates.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from raystudy.compare.agreement import decision_accuracy, pair_indices
from raystudy.compare.noise import seed_noise
from raystudy.compare.scores import BoolArray, FloatArray, Scores

FALSE_DISCOVERY_RATE = 0.05


def separable_pairs(truth: Scores) -> BoolArray | None:
    """Pairs of `truth` ([pair], order of `pair_indices`) whose gap is beyond noise at a false-discovery rate
    of 5%.

    Two-sided t test of each gap of seed means with the pooled residual variance, (n-1)(k-1) degrees of
    freedom, then Benjamini and Hochberg (1995). A noise-free truth separates every pair that differs. None
    when the noise is unknown (fewer than two seeds). All truth values must be finite.
    """
    noise = seed_noise(truth)
    if noise is None:
        return None
    means = truth.means()
    first, second = pair_indices(means.size)
    return discoveries(gap_p_values(means[first] - means[second], noise.variance, truth.num_seeds, noise.dof))


def separability(truth: Scores) -> str:
    """The label under which separable pairs are printed."""
    return "noise-free" if truth.noise_free else "same-seeds"


def separable_decision_accuracy(truth: FloatArray, candidate: FloatArray, pairs: BoolArray) -> FloatArray:
    """Decision accuracy over `pairs` only, [..., recipe] to [...]; NaN if there is none."""
    return decision_accuracy(truth, candidate, pairs)


def gap_p_values(
    gaps: FloatArray, run_variance: FloatArray | float, num_seeds: int, dof: FloatArray | float
) -> FloatArray:
    """Two-sided p-values [pair] of gaps between two means over `num_seeds` runs of variance `run_variance`.

    With zero variance a gap is either 0 (p = 1) or certain (p = 0).
    """
    error = np.broadcast_to(np.sqrt(2.0 * np.asarray(run_variance) / num_seeds), gaps.shape)
    certain = error == 0.0
    statistic = np.abs(gaps) / np.where(certain, 1.0, error)
    p = 2.0 * np.asarray(stats.t.sf(statistic, np.maximum(dof, 1.0)), dtype=np.float64)
    return np.where(certain, np.where(gaps == 0.0, 1.0, 0.0), p)


def discoveries(p_values: FloatArray) -> BoolArray:
    """Benjamini-Hochberg at 5%, same shape."""
    adjusted = np.asarray(stats.false_discovery_control(p_values), dtype=np.float64)
    return np.asarray(adjusted <= FALSE_DISCOVERY_RATE, dtype=np.bool_)
