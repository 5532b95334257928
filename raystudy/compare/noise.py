"""How much a score moves with its seed, estimated from the recipe x seed residual.

Seeds are shared by recipes (same initialisation, same data order), so a seed is a block: its main effect is
the same for all recipes, cancels in every figure, and is removed. Knows nothing about figures or intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raystudy.compare.scores import FloatArray, Scores


@dataclass(frozen=True)
class SeedNoise:
    """Variance of ONE run's score around its recipe's expected score, and its degrees of freedom.

    The variance is in the squared unit of the score. `dof` is 0 for a noise-free score, whose variance is
    known.
    """

    variance: float
    dof: int


def seed_noise(scores: Scores) -> SeedNoise | None:
    """Residual variance of [recipe, seed] after recipe and seed main effects, (n-1)(k-1) degrees of freedom.

    Recipes with a missing or diverged value are left out. None with fewer than two seeds or two recipes left.
    """
    if scores.noise_free:
        return SeedNoise(variance=0.0, dof=0)
    finite = scores.values[np.isfinite(scores.values).all(axis=1)]
    num_recipes, num_seeds = finite.shape
    if num_recipes < 2 or num_seeds < 2:
        return None
    dof = (num_recipes - 1) * (num_seeds - 1)
    residual = block_residual(finite)
    variance = float((residual**2).sum()) / dof
    # Equal seeds leave the rounding of a mean, not noise.
    rounding = 8.0 * np.finfo(np.float64).eps * float(np.abs(finite).max())
    return SeedNoise(variance=variance if variance > rounding**2 else 0.0, dof=dof)


def block_residual(values: FloatArray) -> FloatArray:
    """[..., recipe, seed] less recipe means and seed means, same shape."""
    within = values - values.mean(axis=-1, keepdims=True)
    residual: FloatArray = within - within.mean(axis=-2, keepdims=True)
    return residual
