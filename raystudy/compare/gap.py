"""Two recipes: how far apart they are on each side, the 95% interval of that gap, and P(A better).

The gap is A minus B; below 0 A is better. Seeds are blocks, so the noise of the gap comes from the differences within
seeds: with k seeds and a flat prior its posterior is Student's t with k - 1 degrees of freedom around the observed gap
(Gelman et al., Bayesian Data Analysis, 3.2), whose quantiles are the interval and whose mass below 0 is P(A better).
With one seed the noise is unknown: both are null and the outcome is "undecided". Knows nothing about correlations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from raystudy.compare.noise import seed_noise
from raystudy.compare.scores import Scores

Notes = list[dict[str, str]]


def gap_of_two(truth: Scores, candidate: Scores) -> tuple[dict[str, Any], Notes]:
    """The gap of the two recipes on both sides, JSON-ready, and why a part of it is null.

    Both sides have the same two recipes, A the first of them, and no value is missing.
    """
    notes: Notes = []
    a, b = truth.recipes
    sides = {name: _side(name, scores, notes) for name, scores in (("truth", truth), ("candidate", candidate))}
    return {"a": a, "b": b, **sides}, notes


def _side(name: str, scores: Scores, notes: Notes) -> dict[str, Any]:
    field = f"gap.{name}"
    side: dict[str, Any] = {"value": None, "these_recipes": None, "probability_a_better": None, "outcome": "undecided"}
    if not np.isfinite(scores.values).all():
        return _without(side, notes, field, "a run diverged, so the gap is not finite")
    means = scores.means()
    value = float(means[0] - means[1])
    side["value"] = value
    if scores.noise_free:
        probability = 0.5 if value == 0.0 else float(value < 0.0)
        return _decided({**side, "these_recipes": {"low": value, "high": value}, "probability_a_better": probability})
    noise = seed_noise(scores)
    if noise is None:
        return _without(side, notes, f"{field}.these_recipes", "the noise of a gap needs two seeds or more")
    if noise.variance == 0.0:
        return _without(side, notes, f"{field}.these_recipes", "no seed moves the gap, so its noise is unknown")
    error = np.sqrt(2.0 * noise.variance / scores.num_seeds)
    reach = float(stats.t.ppf(0.975, noise.dof) * error)
    bounds = {"low": value - reach, "high": value + reach}
    probability = float(stats.t.cdf(-value / error, noise.dof))
    return _decided({**side, "these_recipes": bounds, "probability_a_better": probability})


def _without(side: dict[str, Any], notes: Notes, field: str, reason: str) -> dict[str, Any]:
    notes.append({"field": field, "reason": reason})
    return side


def _decided(side: dict[str, Any]) -> dict[str, Any]:
    """The side with its outcome: "a" or "b" where the interval leaves out 0."""
    bounds = side["these_recipes"]
    if bounds["high"] < 0.0:
        return {**side, "outcome": "a"}
    return {**side, "outcome": "b" if bounds["low"] > 0.0 else "undecided"}
