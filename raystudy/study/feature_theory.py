"""Exact first and second moments of a random-feature head under stochastic gradient descent, and its expected loss.

For normal features (the Gaussian equivalent of a mixture) and a head that starts at zero; derived in docs/theory.md.
Vectorised over recipes and learning rates. Constant rates cost O(features) per step, rates that change and averaged
weights O(features^2). Knows nothing of runs, seeds or storage; what single runs do is in `feature_predictions.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from raystudy.study.synthetic import Moments, Spectrum

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeadMoments:
    """Moments of d = best head minus head over streams of samples, each recipe in its own eigenbasis.

    `mean` [recipe, rate, features] = E d, `second` [recipe, rate, features, features] = E dd'. Not finite where the
    rate is above the edge of stability.
    """

    spectra: tuple[Spectrum, ...]
    mean: FloatArray
    second: FloatArray

    @property
    def covariance(self) -> FloatArray:
        """Of the head, [recipe, rate, features, features]."""
        with np.errstate(invalid="ignore", over="ignore"):
            spread: FloatArray = self.second - self.mean[..., :, None] * self.mean[..., None, :]
        return spread

    def expected_losses(self, validation: Moments) -> FloatArray:
        """Expected squared error on `validation` of a run, [recipe, rate]; inf above the edge of stability."""
        at_best, slope, curvature = seen_from_best(self.spectra, validation)
        with np.errstate(invalid="ignore", over="ignore"):
            linear = np.einsum("rea,ra->re", self.mean, slope)
            quadratic = np.einsum("reab,rab->re", self.second, curvature)
            losses = at_best[:, None] - 2.0 * linear + quadratic
        return np.where(np.isfinite(losses), losses, np.inf)

    def variances(self, validation: Moments) -> FloatArray:
        """Variance between runs of that loss, [recipe, rate], taking the head as normal; inf above the edge.

        For d ~ N(m, S) and loss - 2 s'd + d'Hd it is 4 (Hm - s)'S(Hm - s) + 2 tr (HS)^2.
        """
        _, slope, curvature = seen_from_best(self.spectra, validation)
        with np.errstate(invalid="ignore", over="ignore"):
            spread = self.covariance
            gradient = np.einsum("rab,reb->rea", curvature, self.mean) - slope[:, None, :]
            product = curvature[:, None] @ spread
            straight = 4.0 * np.einsum("rea,reab,reb->re", gradient, spread, gradient)
            values: FloatArray = straight + 2.0 * np.einsum("reab,reba->re", product, product)
        return np.where(np.isfinite(values), values, np.inf)


def seen_from_best(spectra: Sequence[Spectrum], validation: Moments) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The validation loss as L - 2 s'd + d'Hd of d = best head minus head, in each recipe's eigenbasis.

    L [recipe], s [recipe, features], H [recipe, features, features].
    """
    best = np.stack([spectrum.vectors @ spectrum.best for spectrum in spectra])
    slopes = best @ validation.h - validation.c
    vectors = np.stack([spectrum.vectors for spectrum in spectra])
    slope = np.einsum("rca,rc->ra", vectors, slopes)
    curvature: FloatArray = np.swapaxes(vectors, 1, 2) @ validation.h @ vectors
    return validation.loss(best), slope, curvature


def head_moments(spectra: Sequence[Spectrum], batch: int, rates: FloatArray, averaged: int = 1) -> HeadMoments:
    """Moments after all steps of `rates` [rate, step], of the last weights or the mean over the `averaged` last steps.

    `batch` independent samples a step; the gradient is that of half the squared loss. Exact for normal features.
    Raises ValueError unless 1 <= averaged <= steps (steps = 0 leaves the head at zero).
    """
    steps = rates.shape[1]
    if not 1 <= averaged <= max(1, steps):
        raise ValueError(f"averaged must lie between 1 and the number of steps {steps}, but got {averaged}")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        recursion = _Recursion(spectra, batch, rates.shape[0])
        if averaged == 1:
            recursion.advance(rates)
            mean, second = recursion.mean, recursion.second()
        else:
            recursion.advance(rates[:, : steps - averaged])
            mean, second = recursion.averaged(rates[:, steps - averaged :])
    return HeadMoments(tuple(spectra), mean, second)


class _Recursion:
    """E d and E dd' of one step after another: [recipe, rate, ...] in each recipe's eigenbasis, eigenvalues l.

    E d_a    <- (1 - eta l_a) E d_a
    E d_a d_b <- [(1 - eta l_a)(1 - eta l_b) + eta^2 l_a l_b / B] E d_a d_b
                 + (a = b) (eta^2 / B) l_a (sum_c l_c E d_c^2 + residual)
    """

    def __init__(self, spectra: Sequence[Spectrum], batch: int, num_rates: int) -> None:
        self.batch = batch
        self.values = np.stack([spectrum.values for spectrum in spectra])[:, None, :]
        self.residual = np.array([spectrum.residual for spectrum in spectra])[:, None, None]
        best = np.stack([spectrum.best for spectrum in spectra])[:, None, :]
        self.mean: FloatArray = np.repeat(best, num_rates, axis=1)
        self.squares = self.mean**2
        self.cross = self.mean[..., :, None] * self.mean[..., None, :]  # its diagonal is not kept: see `squares`

    def second(self) -> FloatArray:
        """E dd' [recipe, rate, features, features]."""
        whole = self.cross.copy()
        places = np.arange(whole.shape[-1])
        whole[..., places, places] = self.squares
        return whole

    def advance(self, rates: FloatArray) -> None:
        """Take the steps of `rates` [rate, step]."""
        for rate, count in _stretches(rates):
            shrink = 1.0 - rate[:, None] * self.values
            keep = shrink**2 + (1.0 - shrink) ** 2 / self.batch
            gain = (rate[:, None] ** 2 / self.batch) * self.values
            for _ in range(count):
                own = (self.values * self.squares).sum(axis=-1, keepdims=True) + self.residual
                self.squares = keep * self.squares + gain * own
            self.mean *= shrink**count
            self.cross *= _pair_factors(shrink, self.batch) ** count

    def averaged(self, rates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Take the steps of `rates` and return the moments of the mean of d over the weights after each of them.

        With S_t the sum of d up to step t: C_t = E d_t S_t' = (1 - eta l) C_(t-1) + E d_t d_t', as later noise has
        mean zero, and E S_t S_t' grows by C_t + C_t' - E d_t d_t'.
        """
        total, with_sum, half = np.zeros_like(self.mean), np.zeros_like(self.cross), np.zeros_like(self.cross)
        for rate, count in _stretches(rates):
            shrink = 1.0 - rate[:, None] * self.values
            for _ in range(count):
                self.advance(rate[:, None])
                now = self.second()
                total += self.mean
                with_sum *= shrink[..., :, None]
                with_sum += now
                half += with_sum
                now *= 0.5
                half -= now
        steps = rates.shape[1]
        return total / steps, (half + np.swapaxes(half, -1, -2)) / steps**2


def _pair_factors(shrink: FloatArray, batch: int) -> FloatArray:
    moved = 1.0 - shrink
    outer: FloatArray = shrink[..., :, None] * shrink[..., None, :]
    return outer + moved[..., :, None] * moved[..., None, :] / batch


def _stretches(rates: FloatArray) -> Iterator[tuple[FloatArray, int]]:
    """Rates [rate] and for how many steps in a row they hold."""
    steps = rates.shape[1]
    changes = np.flatnonzero((rates[:, 1:] != rates[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), steps] if steps else [0]
    for low, high in pairwise(bounds):
        yield rates[:, low], high - low
