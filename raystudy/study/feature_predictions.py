"""What the moments of `feature_theory.py` say of single runs and of single steps: agreement, and pairs that flip.

Derived in docs/theory.md. Knows nothing of runs or storage.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystudy.compare.agreement import pair_signs, spearman
from raystudy.study.feature_theory import HeadMoments, seen_from_best
from raystudy.study.synthetic import Moments

FloatArray = npt.NDArray[np.float64]


def draw_losses(heads: HeadMoments, validation: Moments, draws: int, generator: np.random.Generator) -> FloatArray:
    """Losses of `draws` single runs [draw, recipe, rate], heads taken as normal and independent between recipes.

    inf above the edge of stability. The draws of one recipe at different rates are independent too.
    """
    at_best, slope, curvature = seen_from_best(heads.spectra, validation)
    spread = heads.covariance
    losses = np.full((draws, *heads.mean.shape[:2]), np.inf)
    for recipe, rate in np.ndindex(heads.mean.shape[:2]):
        if not np.isfinite(spread[recipe, rate]).all():
            continue
        values, vectors = np.linalg.eigh(spread[recipe, rate])
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = generator.standard_normal((draws, len(values)))
        d = heads.mean[recipe, rate] + normal @ root.T
        quadratic = ((d @ curvature[recipe]) * d).sum(axis=-1)
        losses[:, recipe, rate] = at_best[recipe] - 2.0 * d @ slope[recipe] + quadratic
    return losses


@dataclass(frozen=True, eq=False)
class PredictedAgreement:
    """Spearman correlation of a single run per recipe with the truth, by rate [rate]: mean and spread over draws."""

    mean: FloatArray
    spread: FloatArray


def predicted_agreement(
    heads: HeadMoments, validation: Moments, truth: FloatArray, generator: np.random.Generator, draws: int = 200
) -> PredictedAgreement:
    """Of single runs with `truth` [recipe]."""
    losses = np.moveaxis(draw_losses(heads, validation, draws, generator), 2, 0)
    agreement = spearman(truth, losses)
    return PredictedAgreement(agreement.mean(axis=1), agreement.std(axis=1, ddof=1))


def exact_agreement(losses: FloatArray, truth: FloatArray) -> FloatArray:
    """Spearman correlation of expected losses [recipe, rate] with `truth` [recipe], [rate]."""
    return spearman(truth, losses.T)


def one_step_changes(own: Moments, validation: Moments, head: FloatArray, batch: int, rates: FloatArray) -> FloatArray:
    """Expected change [rate] of the validation loss by one step from `head` on a batch of `own` data. Exact.

    With g = H head - c the gradient of HALF the loss, the change of half the validation loss is
    -eta g_val'g + (eta^2 / 2)(g'H_val g + tr(H_val Sigma) / B), where Sigma = gg' + H (loss of head on its own
    data) is the covariance of the gradient of one sample. The loss itself, which is returned, changes by twice that.
    """
    gradient = own.h @ head - own.c
    towards = (validation.h @ head - validation.c) @ gradient
    along = gradient @ validation.h @ gradient
    noise = along + (validation.h * own.h).sum() * own.loss(head)
    half = -rates * towards + 0.5 * rates**2 * (along + noise / batch)
    changes: FloatArray = 2.0 * half
    return changes


def flipped_pairs(first: FloatArray, second: FloatArray) -> npt.NDArray[np.bool_]:
    """Unordered pairs [pair] that `first` [recipe] and `second` [recipe] put in opposite orders."""
    flips: npt.NDArray[np.bool_] = pair_signs(first) * pair_signs(second) < 0
    return flips
