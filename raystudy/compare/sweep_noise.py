"""Seed noise within a learning-rate sweep [recipe, lr, seed], seeds shared by recipes and learning rates.

Knows nothing about tuning: which learning rates matter is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from raystudy.compare.noise import block_residual
from raystudy.compare.scores import FloatArray


@dataclass(frozen=True)
class SweepNoise:
    """Variance of one run and its degrees of freedom, for gaps within one LR and for gaps across two.

    Between recipes at one LR what a seed does to that LR cancels; between recipes at two LRs it does not, so
    `across_variance` is the larger.
    """

    within_variance: float
    within_dof: float
    across_variance: float
    across_dof: float


def sweep_noise(sweep: FloatArray) -> SweepNoise | None:
    """Pooled noise of [recipe, lr, seed]; None with fewer than two seeds or fewer than two recipes without a
    gap.

    Within: residual of recipe x seed blocks at each LR, L(n-1)(k-1) degrees of freedom. Across: that plus the
    seed x LR variance component by the method of moments (not below zero), degrees of freedom by
    Satterthwaite (1946).
    """
    complete = sweep[np.isfinite(sweep).all(axis=(1, 2))]
    num_recipes, num_lrs, num_seeds = complete.shape
    if num_recipes < 2 or num_seeds < 2:
        return None
    by_lr = np.swapaxes(complete, 0, 1)
    within_dof = num_lrs * (num_recipes - 1) * (num_seeds - 1)
    within = float((block_residual(by_lr) ** 2).sum()) / within_dof
    across, across_dof = within, float(within_dof)
    if num_lrs > 1:
        blocks_dof = (num_lrs - 1) * (num_seeds - 1)
        # E[mean square] = within variance + n x variance of seed x LR.
        blocks = num_recipes * float((block_residual(by_lr.mean(axis=1)) ** 2).sum()) / blocks_dof
        if blocks > within:
            parts = (within * (1.0 - 1.0 / num_recipes), blocks / num_recipes)
            across = sum(parts)
            across_dof = across**2 / (parts[0] ** 2 / within_dof + parts[1] ** 2 / blocks_dof)
    return SweepNoise(within, within_dof, across, across_dof)


def interaction_test(sweep: FloatArray) -> dict[str, float | int] | None:
    """F test of LR x recipe in the two-way layout [recipe, lr, seed] with seeds as blocks of each LR; JSON-
    ready.

    Numerator (n-1)(L-1), denominator L(n-1)(k-1) degrees of freedom: what a seed does to all recipes at one
    LR is removed. None where there are too few recipes, LRs or seeds, where a value is not finite, or without
    noise.
    """
    num_recipes, num_lrs, num_seeds = sweep.shape
    if min(num_recipes, num_lrs, num_seeds) < 2 or not np.isfinite(sweep).all():
        return None
    numerator_dof = (num_recipes - 1) * (num_lrs - 1)
    denominator_dof = num_lrs * (num_recipes - 1) * (num_seeds - 1)
    numerator = num_seeds * float((block_residual(sweep.mean(axis=2)) ** 2).sum()) / numerator_dof
    denominator = float((block_residual(np.swapaxes(sweep, 0, 1)) ** 2).sum()) / denominator_dof
    if denominator <= (8.0 * np.finfo(np.float64).eps * float(np.abs(sweep).max())) ** 2:
        return None
    ratio = numerator / denominator
    return {
        "f": ratio,
        "numerator_dof": numerator_dof,
        "denominator_dof": denominator_dof,
        "p_value": float(stats.f.sf(ratio, numerator_dof, denominator_dof)),
    }
