"""All figures of one comparison in one pass over pair signs and one sort.

Keys are `spearman`, `kendall_tau_b`, `pearson`, `decision_accuracy`, `separable_decision_accuracy`,
`regret.<k>.best_of_k` and `regret.<k>.mean_of_k`. Knows nothing about noise or intervals; undefined is NaN.
"""

from __future__ import annotations

import numpy as np

from raystudy.compare.agreement import accuracy_of_signs, pair_signs, pearson, spearman, tau_b_of_signs
from raystudy.compare.regret import best_of_k, mean_of_k, regrets
from raystudy.compare.scores import BoolArray, FloatArray
from raystudy.compare.untied import discordant_pairs, rank_correlation, untied_ranks

REGRET_KS = (1, 3, 5)
CORRELATIONS = ("spearman", "kendall_tau_b", "pearson")
AGREEMENTS = (*CORRELATIONS, "decision_accuracy", "separable_decision_accuracy")
# Numbers per temporary array (pairs of recipes x draws): 16 MB of float64.
_BLOCK_NUMBERS = 2_000_000
# Two recipes have a correlation of -1 or 1 whatever the scores.
MIN_RECIPES_FOR_CORRELATION = 3


def agreement_figures(truth: FloatArray, candidate: FloatArray, separable: BoolArray | None) -> dict[str, FloatArray]:
    """The five agreements of [..., recipe] scores, each [...]; with `separable` None the last is NaN."""
    found = _untied(truth, candidate, separable) or _tied(truth, candidate, separable)
    found["pearson"] = pearson(truth, candidate)
    if truth.shape[-1] < MIN_RECIPES_FOR_CORRELATION:
        found |= dict.fromkeys(CORRELATIONS, np.full_like(found["pearson"], np.nan))
    return found


def _untied(truth: FloatArray, candidate: FloatArray, separable: BoolArray | None) -> dict[str, FloatArray] | None:
    """All but Pearson where no draw has a tie, else None."""
    num_recipes = truth.shape[-1]
    a = untied_ranks(truth.reshape(-1, num_recipes)) if num_recipes > 1 else None
    b = None if a is None else untied_ranks(candidate.reshape(-1, num_recipes))
    if a is None or b is None:
        return None
    wrong, wrong_separable = discordant_pairs(a, b, separable if separable is not None and separable.any() else None)
    right = 1.0 - wrong / (num_recipes * (num_recipes - 1) // 2)
    undefined = np.full_like(right, np.nan)
    found = {
        "spearman": rank_correlation(a, b),
        "kendall_tau_b": 2.0 * right - 1.0,
        "decision_accuracy": right,
        "separable_decision_accuracy": undefined,
    }
    if separable is not None and wrong_separable is not None:
        found["separable_decision_accuracy"] = 1.0 - wrong_separable / int(separable.sum())
    return {name: values.reshape(truth.shape[:-1]) for name, values in found.items()}


def _tied(truth: FloatArray, candidate: FloatArray, separable: BoolArray | None) -> dict[str, FloatArray]:
    """All but Pearson, ties as they are defined in `agreement`; a block of draws at a time."""
    num_recipes = truth.shape[-1]
    rows = [side.reshape(-1, num_recipes) for side in (truth, candidate)]
    size = max(1, _BLOCK_NUMBERS // max(num_recipes * (num_recipes - 1) // 2, 1))
    parts = [
        _of_signs(rows[0][start : start + size], rows[1][start : start + size], separable)
        for start in range(0, rows[0].shape[0], size)
    ]
    return {name: np.concatenate([part[name] for part in parts]).reshape(truth.shape[:-1]) for name in parts[0]}


def _of_signs(truth: FloatArray, candidate: FloatArray, separable: BoolArray | None) -> dict[str, FloatArray]:
    """All but Pearson, [draw, recipe] to [draw]."""
    truth_signs, candidate_signs = pair_signs(truth), pair_signs(candidate)
    found = {
        "spearman": spearman(truth, candidate),
        "kendall_tau_b": tau_b_of_signs(truth_signs, candidate_signs),
        "decision_accuracy": accuracy_of_signs(truth_signs, candidate_signs),
    }
    undefined = np.full_like(found["spearman"], np.nan)
    found["separable_decision_accuracy"] = undefined
    if separable is not None and separable.any():
        found["separable_decision_accuracy"] = accuracy_of_signs(
            truth_signs[..., separable], candidate_signs[..., separable]
        )
    return found


def drawn_figures(
    truth: FloatArray,
    candidate: FloatArray,
    separable: BoolArray | None,
    tie_breaker: np.random.Generator | None,
) -> dict[str, FloatArray]:
    """Every figure of drawn score vectors [..., recipe] of one shape, each [...]. See `regrets` for ties."""
    found = agreement_figures(truth, candidate, separable)
    possible = [k for k in REGRET_KS if k <= truth.shape[-1]]
    for k, (best, mean) in regrets(truth, candidate, possible, tie_breaker).items():
        found[f"regret.{k}.best_of_k"] = best
        found[f"regret.{k}.mean_of_k"] = mean
    return found


def point_figures(truth: FloatArray, groups: FloatArray, separable: BoolArray | None) -> dict[str, float]:
    """Every figure's value: the mean over `groups` [group, recipe] of its figure with `truth` [recipe].

    NaN where it is undefined in any group. Regrets treat ties exactly.
    """
    by_group = agreement_figures(np.broadcast_to(truth, groups.shape), groups, separable)
    found = {name: float(values.mean()) for name, values in by_group.items()}
    for k in REGRET_KS:
        if k <= truth.size:
            found[f"regret.{k}.best_of_k"] = float(np.mean([best_of_k(truth, scores, k) for scores in groups]))
            found[f"regret.{k}.mean_of_k"] = float(np.mean([mean_of_k(truth, scores, k) for scores in groups]))
    return found
