"""Does tuning the learning rate reorder the recipes here at all?

If the order at the best fixed LR is the tuned order, a study cannot tell a tuned truth from a fixed one.
Knows nothing about candidates. Tuned losses here are chosen and scored on the same seeds, and so optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.compare.agreement import pair_indices, spearman
from raystudy.compare.figures import MIN_RECIPES_FOR_CORRELATION
from raystudy.compare.scores import BoolArray, FloatArray
from raystudy.compare.separable import FALSE_DISCOVERY_RATE, discoveries, gap_p_values
from raystudy.compare.sweep_noise import interaction_test, sweep_noise
from raystudy.errors import DataError

# Share of all pairs that must keep their order beyond noise before seeds are said to suffice for "does-not-
# reorder" although some near-tie changed places. An assumption: a majority.
LEAST_SHARE_KEPT = 0.5


def premise(
    sweep: FloatArray, lrs: Sequence[float], recipes: Sequence[str], *, seed: int, resamples: int
) -> dict[str, Any]:
    """Order at the best fixed LR against the order when each recipe is tuned; JSON-ready.

    `sweep` is [recipe, lr, seed] in the metric's unit, NaN missing, +inf diverged. The best fixed LR has the
    lowest mean over recipes among LRs without a gap; a recipe's tuned loss is its lowest seed mean over LRs.
    A pair is reversed if its two gaps have opposite signs, and reversed separably if both are beyond noise
    besides (t tests, the larger of the two p-values, Benjamini-Hochberg at 5% over all pairs). The outcome is

    - "reorders" if a pair is reversed separably;
    - "does-not-reorder" if no reversed pair (there may be none) has either gap beyond noise (p <= 5% for a pair
      by itself) while at least half of all pairs have both gaps beyond noise (as above) in the same direction;
    - "undecided" otherwise.

    `seed` and `resamples` are for the interval of `spearman`, which is not computed yet. DataError for a
    wrong shape.
    """
    del seed, resamples
    notes: list[dict[str, str]] = []
    table, grid = _canonical(sweep, lrs, recipes, notes)
    means = table.mean(axis=2)
    complete = np.isfinite(means).all(axis=0)
    if len(means) < 2 or not complete.any():
        what = "two recipes or more with a finite loss" if len(means) < 2 else "an LR at which every run is finite"
        notes.append({"field": "outcome", "reason": f"needs {what}"})
        return _nothing_fixed(len(means), notes)
    losses = np.where(np.isfinite(means), means, np.inf)
    fixed = int(np.argmin(np.where(complete, losses.mean(axis=0), np.inf)))
    best = losses.argmin(axis=1)
    first, second = pair_indices(len(means))
    tuned = losses.min(axis=1)
    fixed_gaps, tuned_gaps = losses[first, fixed] - losses[second, fixed], tuned[first] - tuned[second]
    signs = np.sign(fixed_gaps) * np.sign(tuned_gaps)
    p_values = _p_values(table, fixed, best, fixed_gaps, tuned_gaps)
    if p_values is None:
        notes.append({"field": "outcome", "reason": "needs two seeds or more to tell a reversal from noise"})
    interaction = interaction_test(table[:, complete])
    if interaction is None:
        reason = "needs two seeds or more, two LRs or more without a gap, and noise that is not zero"
        notes.append({"field": "interaction", "reason": reason})
    separably_reversed = _beyond(p_values) & (signs < 0) if p_values is not None else np.zeros_like(signs, dtype=bool)
    return {
        "best_fixed_lr": float(grid[fixed]),
        "outcome": _outcome(signs, p_values),
        "spearman": _order_agreement(losses[:, fixed], tuned, notes),
        "num_pairs": int(signs.size),
        "num_pairs_reversed": int((signs < 0).sum()),
        "num_pairs_reversed_separably": int(separably_reversed.sum()),
        "interaction": interaction,
        "num_recipes_with_another_best_lr": int((best != fixed).sum()),
        "notes": notes,
    }


def _canonical(
    sweep: FloatArray, lrs: Sequence[float], recipes: Sequence[str], notes: list[dict[str, str]]
) -> tuple[FloatArray, FloatArray]:
    """The sweep in order of recipe name and LR, without recipes that have no finite loss, and its LRs."""
    values = np.asarray(sweep, dtype=np.float64)
    if values.ndim != 3 or values.shape[:2] != (len(recipes), len(lrs)) or 0 in values.shape[1:]:
        raise DataError(
            f"A sweep must be an array [recipe, lr, seed] for {len(recipes)} recipes and {len(lrs)} learning rates "
            f"with one seed or more, but its shape is {values.shape}. Give one row per recipe."
        )
    rows = sorted(range(len(recipes)), key=lambda row: recipes[row])
    usable = [row for row in rows if np.isfinite(values[row].mean(axis=1)).any()]
    notes += [
        {"field": recipes[row], "reason": "excluded: no LR at which every run is finite"}
        for row in rows
        if row not in usable
    ]
    columns = np.argsort(np.asarray(lrs, dtype=np.float64))
    # C order: the order of summation must not depend on the caller's layout.
    table = np.ascontiguousarray(values[usable][:, columns])
    return table, np.asarray(lrs, dtype=np.float64)[columns]


def _p_values(
    table: FloatArray, fixed: int, best: npt.NDArray[np.intp], fixed_gaps: FloatArray, tuned_gaps: FloatArray
) -> FloatArray | None:
    """p-values [2, pair] of the gaps at the fixed LR and when tuned; None if the noise is unknown."""
    # Only LRs that some score here comes from: noise at an LR near divergence says nothing about the others.
    noise = sweep_noise(table[:, np.union1d(best, [fixed])])
    if noise is None:
        return None
    num_seeds = table.shape[2]
    first, second = pair_indices(len(table))
    same_lr = best[first] == best[second]
    variance = np.where(same_lr, noise.within_variance, noise.across_variance)
    dof = np.where(same_lr, noise.within_dof, noise.across_dof)
    at_fixed = gap_p_values(fixed_gaps, noise.within_variance, num_seeds, noise.within_dof)
    return np.stack([at_fixed, gap_p_values(tuned_gaps, variance, num_seeds, dof)])


def _beyond(p_values: FloatArray) -> BoolArray:
    """Pairs both of whose gaps are beyond noise."""
    return discoveries(p_values.max(axis=0))


def _outcome(signs: FloatArray, p_values: FloatArray | None) -> str:
    if p_values is None:
        return "undecided"
    reversed_pairs = signs < 0
    beyond = _beyond(p_values)
    if (beyond & reversed_pairs).any():
        return "reorders"
    near_ties = bool((p_values[:, reversed_pairs] > FALSE_DISCOVERY_RATE).all())
    share_kept = float((beyond & (signs > 0)).mean())
    return "does-not-reorder" if near_ties and share_kept >= LEAST_SHARE_KEPT else "undecided"


def _order_agreement(fixed: FloatArray, tuned: FloatArray, notes: list[dict[str, str]]) -> dict[str, float | None]:
    value = float(spearman(fixed, tuned)) if fixed.size >= MIN_RECIPES_FOR_CORRELATION else np.nan
    if np.isnan(value):
        reason = "a correlation needs three recipes or more, not all equal"
        notes.append({"field": "spearman", "reason": reason})
    reason = "not computed: the two orders share runs, so their noise is correlated, which the model leaves out"
    notes.append({"field": "spearman.these_recipes", "reason": reason})
    notes.append({"field": "spearman.recipes_like_these", "reason": "not computed yet"})
    return {"value": None if np.isnan(value) else value, "these_recipes": None, "recipes_like_these": None}


def _nothing_fixed(num_recipes: int, notes: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "best_fixed_lr": None,
        "outcome": "undecided",
        "spearman": {"value": None, "these_recipes": None, "recipes_like_these": None},
        "num_pairs": num_recipes * (num_recipes - 1) // 2,
        "num_pairs_reversed": None,
        "num_pairs_reversed_separably": None,
        "interaction": None,
        "num_recipes_with_another_best_lr": None,
        "notes": notes,
    }
