"""Rows of a table in long form -> the scores of one protocol. Knows nothing about files or studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raystudy.compare.scores import Scores


def scores_of_cells(
    name: str, cells: Mapping[tuple[str, str], float], recipes: Sequence[str]
) -> tuple[Scores, str | None]:
    """Scores of `recipes` from scores by (recipe, seed), and why seeds are no columns of theirs, if they are not.

    Where every recipe that has a score has the same seeds, each seed is a column: a block that recipes share. Where
    seeds differ no block holds for all, so each recipe's score is the mean over the seeds that it has, in one column.
    A recipe without any score gets NaN.
    """
    by_recipe: dict[str, dict[str, float]] = {}
    for (recipe, seed), score in cells.items():
        by_recipe.setdefault(recipe, {})[seed] = score
    present = [recipe for recipe in recipes if recipe in by_recipe]
    seeds = sorted({seed for recipe in present for seed in by_recipe[recipe]})
    lacking = next(
        ((recipe, seed) for recipe in sorted(present) for seed in seeds if seed not in by_recipe[recipe]), None
    )
    if lacking is None:
        rows = [[by_recipe.get(recipe, {}).get(seed, np.nan) for seed in seeds or [""]] for recipe in recipes]
        return Scores(name, tuple(recipes), np.array(rows).reshape(len(recipes), -1)), None
    means = [[_mean(by_recipe[recipe]) if recipe in by_recipe else np.nan] for recipe in recipes]
    recipe, seed = lacking
    reason = f"recipes of {name!r} have different seeds: {recipe!r} lacks seed {seed!r}"
    return Scores(name, tuple(recipes), np.array(means)), reason


def _mean(by_seed: Mapping[str, float]) -> float:
    """In the order of the seeds, so that the order of rows moves no digit."""
    return float(np.mean([by_seed[seed] for seed in sorted(by_seed)]))
