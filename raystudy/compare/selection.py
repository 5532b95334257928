"""Which recipes can be compared, and why the others cannot.

The order of recipes is canonical (by name), so that no figure depends on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raystudy.compare.scores import Scores
from raystudy.errors import DataError

Excluded = list[dict[str, str]]


def comparable_recipes(
    truth: Scores, candidates: Sequence[Scores], recipes: Sequence[str]
) -> tuple[list[str], Excluded]:
    """Recipes with a finite truth and no missing run of any candidate, and the others with their reason.

    Both in order of name. DataError if a recipe is asked for twice.
    """
    if len(set(recipes)) != len(recipes):
        twice = sorted({name for name in recipes if list(recipes).count(name) > 1})
        raise DataError(f"Each recipe must be compared once, but {twice} occur twice. Drop one.")
    kept: list[str] = []
    excluded: Excluded = []
    for recipe in sorted(recipes):
        reasons = [_reason(truth, recipe, may_diverge=False)]
        reasons += [_reason(candidate, recipe, may_diverge=True) for candidate in candidates]
        reason = next((text for text in reasons if text is not None), None)
        if reason is None:
            kept.append(recipe)
        else:
            excluded.append({"recipe": recipe, "reason": reason})
    return kept, excluded


def _reason(scores: Scores, recipe: str, *, may_diverge: bool) -> str | None:
    # The truth is the side on which a diverged score excludes; a candidate's is tied worst.
    whose = f"runs of '{scores.name}'" if may_diverge else "truth runs"
    if recipe not in scores.recipes:
        return f"no score by '{scores.name}'" if may_diverge else "no score by the truth"
    row = scores.values[scores.recipes.index(recipe)]
    num_missing, num_diverged = int(np.isnan(row).sum()), int(np.isinf(row).sum())
    if num_missing:
        return f"{_how_many(num_missing, row.size)} {whose} missing"
    if num_diverged and not may_diverge:
        return f"{_how_many(num_diverged, row.size)} {whose} diverged"
    return None


def _how_many(part: int, whole: int) -> str:
    return "all" if part == whole else f"{part} of {whole}"
