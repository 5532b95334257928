"""The known truth as a guard: a study with random-feature models must recover the order that theory gives."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raystudy.compare.agreement import spearman

LEVEL = 1e-3  # share of random labellings that may pass
_LABELLINGS = 20_000


def bound_of_random_labels(num_recipes: int) -> float:
    """The Spearman correlation that labels given at random exceed with a probability of LEVEL."""
    generator = np.random.default_rng(0)
    places = np.arange(num_recipes, dtype=np.float64)
    labellings = np.stack([generator.permutation(places) for _ in range(_LABELLINGS)])
    return float(np.quantile(spearman(places, labellings), 1 - LEVEL))


def unrecovered(comparison: Mapping[str, Any]) -> str | None:
    """Why the known truth is not recovered, or None: the best candidate must do better than random labels can."""
    entries = [entry for entry in comparison["comparisons"] if entry["metric"] == "loss"]
    best = max(entries, key=lambda entry: entry["spearman"]["value"])
    bound = bound_of_random_labels(best["num_recipes"])
    if best["spearman"]["value"] > bound:
        return None
    return f"{best['candidate']} reaches {best['spearman']['value']:.2f}, and random labels {bound:.2f}"
