"""Which of two candidates agrees better with the truth, on the same resamples.

Knows nothing about what the candidates are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raystudy.compare.agreement import spearman
from raystudy.compare.figures import MIN_RECIPES_FOR_CORRELATION
from raystudy.compare.generators import named_generator
from raystudy.compare.resampling import interval, reason_against, resample
from raystudy.compare.scores import FloatArray, Scores
from raystudy.compare.selection import comparable_recipes
from raystudy.errors import DataError


def contrast(
    truth: Scores, a: Scores, b: Scores, *, recipes: Sequence[str], seed: int, resamples: int
) -> dict[str, Any]:
    """Spearman of `a` minus Spearman of `b`, over the recipes that all three have; JSON-ready.

    The outcome is "a" or "b" if the 95% interval of the difference leaves out 0, else (also without an
    interval) "undecided". Swapping `a` and `b` negates every number exactly. DataError if both have the same
    name.
    """
    if a.name == b.name:
        raise DataError(f"A contrast must be between two candidates, but both are '{a.name}'. Name another.")
    kept, excluded = comparable_recipes(truth, [a, b], recipes)
    sides = {scores.name: scores.restrict(kept) for scores in (a, b)}
    truth = truth.restrict(kept)
    notes = [{"field": item["recipe"], "reason": f"excluded: {item['reason']}"} for item in excluded]
    values = {name: _value(truth, scores) for name, scores in sides.items()}
    difference = None
    if len(kept) < MIN_RECIPES_FOR_CORRELATION:
        reason = f"a correlation needs three recipes or more, and {len(kept)} are left"
        notes.append({"field": "difference", "reason": reason})
    elif None in values.values():
        notes.append({"field": "difference", "reason": "a Spearman correlation is undefined: all scores are equal"})
    value_a, value_b = values[a.name], values[b.name]
    if value_a is not None and value_b is not None:
        difference = value_a - value_b
    bounds, obstacle = None, reason_against([truth, *sides.values()])
    if difference is not None and obstacle is None:
        bounds = _bounds(truth, sides, a.name, seed, resamples, difference)
    elif difference is not None and obstacle is not None:
        notes.append({"field": "these_recipes", "reason": obstacle})
    return {
        "a": a.name,
        "b": b.name,
        "figure": "spearman",
        "num_recipes": len(kept),
        "a_value": value_a,
        "b_value": value_b,
        "difference": {"value": difference, "these_recipes": bounds},
        "outcome": _outcome(bounds),
        "notes": notes,
    }


def _value(truth: Scores, candidate: Scores) -> float | None:
    if len(truth.recipes) < MIN_RECIPES_FOR_CORRELATION:
        return None
    value = float(spearman(truth.means(), candidate.groups()).mean())
    return None if np.isnan(value) else value


def _bounds(
    truth: Scores, sides: Mapping[str, Scores], minuend: str, seed: int, resamples: int, difference: float
) -> dict[str, float] | None:
    # Drawn in order of name and negated if need be, so that swapping the sides changes signs only.
    first, second = sorted(sides)
    generator = named_generator(seed, "contrast", first, second, *truth.recipes)

    def differences(drawn: FloatArray, others: Sequence[FloatArray]) -> dict[str, FloatArray]:
        return {"difference": spearman(drawn, others[0]) - spearman(drawn, others[1])}

    draws = resample([truth, sides[first], sides[second]], differences, generator, resamples)["difference"]
    found = interval(draws)
    if found is None:
        return None
    bounds = found.holding(difference if minuend == first else -difference).as_json()
    return bounds if minuend == first else {"low": -bounds["high"], "high": -bounds["low"]}


def _outcome(bounds: Mapping[str, float] | None) -> str:
    if bounds is None or bounds["low"] <= 0.0 <= bounds["high"]:
        return "undecided"
    return "a" if bounds["low"] > 0.0 else "b"
