"""One JSON-ready entry per candidate: figures, intervals, what was left out and why a figure is null.

Knows nothing about studies, runs or cost; a caller adds those fields. NaN never leaves this file: what is
undefined or not computed is None and has a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raystudy.compare.figures import (
    AGREEMENTS,
    CORRELATIONS,
    MIN_RECIPES_FOR_CORRELATION,
    REGRET_KS,
    drawn_figures,
    point_figures,
)
from raystudy.compare.gap import gap_of_two
from raystudy.compare.generators import named_generator
from raystudy.compare.like_these import likes_intervals, reason_against_likes
from raystudy.compare.noise import seed_noise
from raystudy.compare.resampling import Interval, interval, reason_against, resample
from raystudy.compare.scores import BoolArray, FloatArray, Scores
from raystudy.compare.selection import comparable_recipes
from raystudy.compare.separable import separability, separable_pairs
from raystudy.errors import DataError

MIN_RECIPES = 2
Notes = list[dict[str, str]]


def comparison_entries(
    truth: Scores,
    candidates: Sequence[Scores],
    *,
    metric: str,
    recipes: Sequence[str],
    subsets: Mapping[str, Sequence[str]],
    seed: int,
    resamples: int,
    families: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Every candidate against `truth` over `recipes` (the headline) and over each of `subsets`.

    Values are in the scores' own unit, intervals 95%. The draws of an entry depend on (seed, metric,
    candidate, recipes) alone, those of families on (seed, recipes). `families` names the family of each recipe
    (without it each is its own). With fewer than two comparable recipes, as while a study runs, figures are null
    with a note. DataError if two candidates share a name.
    """
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise DataError(f"Candidates must have different names, but got {names}. Rename one.")
    entries = []
    for candidate in candidates:
        pair = _Comparison(truth, candidate, metric, seed, resamples, families or {})
        entry = {"candidate": candidate.name, "metric": metric, "direction": "lower-is-better", **pair.over(recipes)}
        entry["subsets"] = {name: pair.over(members) for name, members in subsets.items()}
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class _Comparison:
    truth: Scores
    candidate: Scores
    metric: str
    seed: int
    resamples: int
    families: Mapping[str, str]

    def over(self, recipes: Sequence[str]) -> dict[str, Any]:
        """The figures over those of `recipes` that both sides have."""
        kept, excluded = comparable_recipes(self.truth, [self.candidate], recipes)
        truth, candidate = self.truth.restrict(kept), self.candidate.restrict(kept)
        notes: Notes = []
        values: dict[str, float] = {}
        draws: dict[str, FloatArray] = {}
        likes: dict[str, Interval] = {}
        gap = None
        separable = None
        if len(kept) >= MIN_RECIPES:
            separable = separable_pairs(truth)
            values = point_figures(truth.means(), candidate.groups(), separable)
            obstacle = reason_against([truth, candidate])
            if obstacle is None:
                draws = self._draws(truth, candidate, separable)
            else:
                notes.append({"field": "these_recipes", "reason": obstacle})
            likes = self._likes(truth, candidate, separable, notes)
        if len(kept) == MIN_RECIPES:
            gap, reasons = gap_of_two(truth, candidate)
            notes += reasons
        for name in AGREEMENTS:
            if np.isnan(values.get(name, np.nan)):
                reason = _reason_undefined(name, truth, candidate, separable)
                notes.append({"field": name, "reason": reason})
        regret: dict[str, Any] = {}
        for k in REGRET_KS:
            keys = {kind: f"regret.{k}.{kind}" for kind in ("best_of_k", "mean_of_k")}
            regret[str(k)] = {kind: _figure(key, values, draws, likes) for kind, key in keys.items()}
            if k > len(kept):
                notes.append({"field": f"regret.{k}", "reason": f"k = {k} exceeds the number of recipes, {len(kept)}"})
        body: dict[str, Any] = {"num_recipes": len(kept)}
        body |= {name: _figure(name, values, draws, likes) for name in AGREEMENTS}
        body["separable_decision_accuracy"] |= {
            "num_pairs": 0 if separable is None else int(separable.sum()),
            "separability": separability(truth),
        }
        num_diverged = int(np.isinf(candidate.values).sum())
        return {
            **body,
            "regret": regret,
            "gap": gap,
            "excluded": excluded,
            "notes": notes,
            "num_diverged": num_diverged,
        }

    def _draws(self, truth: Scores, candidate: Scores, separable: BoolArray | None) -> dict[str, FloatArray]:
        generator = named_generator(self.seed, "entry", self.metric, candidate.name, *truth.recipes)
        noise = seed_noise(candidate)
        # Only a candidate without noise can be tied in a draw.
        tie_breaker = generator if noise is not None and noise.variance == 0.0 else None
        return resample(
            [truth, candidate],
            lambda drawn, others: drawn_figures(drawn, others[0], separable, tie_breaker),
            generator,
            self.resamples,
        )

    def _likes(
        self, truth: Scores, candidate: Scores, separable: BoolArray | None, notes: Notes
    ) -> dict[str, Interval]:
        families = [self.families.get(recipe, recipe) for recipe in truth.recipes]
        obstacle = reason_against_likes(families, [candidate])
        if obstacle is not None:
            notes.append({"field": "recipes_like_these", "reason": obstacle})
            return {}
        # Without the candidate's name: all candidates meet the same families.
        generator = named_generator(self.seed, "likes", *truth.recipes)
        found = likes_intervals(truth, candidate, families, separable, generator, self.resamples)
        for name in AGREEMENTS:
            if name not in found:
                reason = "every resample of families gives the same value, so its spread is unknown"
                notes.append({"field": f"{name}.recipes_like_these", "reason": reason})
        return found


def _figure(
    name: str, values: Mapping[str, float], draws: Mapping[str, FloatArray], likes: Mapping[str, Interval]
) -> dict[str, Any]:
    value = values.get(name, np.nan)
    defined = not np.isnan(value)
    bounds = interval(draws[name]) if defined and name in draws else None
    return {
        "value": value if defined else None,
        "these_recipes": None if bounds is None else bounds.holding(value).as_json(),
        "recipes_like_these": likes[name].holding(value).as_json() if defined and name in likes else None,
    }


def _reason_undefined(name: str, truth: Scores, candidate: Scores, separable: BoolArray | None) -> str:
    num_recipes = len(truth.recipes)
    if num_recipes < MIN_RECIPES:
        return f"needs two recipes or more, and {_recipes(num_recipes)} left"
    if name in CORRELATIONS and num_recipes < MIN_RECIPES_FOR_CORRELATION:
        return f"a correlation needs three recipes or more, and {_recipes(num_recipes)} left"
    num_diverged = int(np.isinf(candidate.values).sum())
    if name == "pearson" and num_diverged:
        return f"{num_diverged} of the candidate's runs diverged"
    if name == "separable_decision_accuracy":
        if separable is None:
            return "needs two truth seeds or more"
        return "no pair of recipes is separable in the truth"
    if np.ptp(truth.means()) == 0.0:
        return "all truths are equal"
    return "all scores of the candidate are equal"


def _recipes(count: int) -> str:
    return "1 recipe is" if count == 1 else f"{count} recipes are"
