"""A realistic comparison (format raystudy-comparison/1) made from a seeded generator; no claim about any study."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np

VALIDATION_SETS = ("prose", "source", "tables")
LRS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)
GRID = (3e-4, 1e-3, 3e-3, 1e-2)
BARELY_TRAINED_LR = 1e-5

# name, dimension, family, control, tuned loss
RECIPES = (
    ("mix-even", "domain mixture", "mix-even", False, 3.912),
    ("mix-prose-heavy", "domain mixture", "mix-prose-heavy", False, 3.871),
    ("corpus-sources", "corpus", "corpus-sources", False, 4.035),
    ("filter-head", "filtering", "filter", False, 3.944),
    ("filter-head-middle", "filtering", "filter", False, 3.926),
    ("dedup-loose", "deduplication", "dedup", False, 3.897),
    ("dedup-strict", "deduplication", "dedup", False, 3.903),
    ("shuffled-words", "domain mixture", "shuffled-words", True, 5.284),
)
AGREEMENTS = ("spearman", "kendall_tau_b", "pearson", "decision_accuracy")
NOTES = [
    {"field": "recipes_like_these", "reason": "not computed yet"},
    {"field": "regret.5.mean_of_k", "reason": "left out to show a note"},
]


def figure(value: float | None, half_width: float | None, low: float = -1.0, high: float = 1.0) -> dict[str, Any]:
    """A FIGURE with an interval cut to [low, high]."""
    interval = None
    if value is not None and half_width is not None:
        interval = {"low": max(low, value - 1.3 * half_width), "high": min(high, value + 0.7 * half_width)}
    return {"value": value, "these_recipes": interval, "recipes_like_these": None}


def _figures(generator: np.random.Generator, agreement: float, num_recipes: int) -> dict[str, Any]:
    noise = generator.normal(0.0, 0.02, 6)
    width = 0.12 + 0.25 * (1 - agreement)
    regret = {
        k: {
            kind: figure(round(max(0.0, (1 - agreement) * 0.2 / int(k) + abs(noise[0]) / 9), 4), 0.02, 0.0, 9.0)
            for kind in ("best_of_k", "mean_of_k")
        }
        for k in ("1", "3", "5")
    }
    regret["5"]["mean_of_k"] = figure(None, None)
    return {
        "num_recipes": num_recipes,
        "spearman": figure(agreement, width),
        "kendall_tau_b": figure(agreement - 0.12 + noise[1], width),
        "pearson": figure(min(0.99, agreement + noise[2]), width),
        "decision_accuracy": figure(0.5 + agreement / 2.2, width / 2, 0.0),
        "separable_decision_accuracy": figure(min(1.0, 0.55 + agreement / 2.2), width / 2, 0.0)
        | {"num_pairs": 14, "separability": "same-seeds"},
        "regret": regret,
        "excluded": [],
        "notes": copy.deepcopy(NOTES),
    }


def _entry(generator: np.random.Generator, name: str, metric: str, agreement: float, **about: Any) -> dict[str, Any]:
    subsets = {
        "with-controls": _figures(generator, min(0.99, agreement + 0.06), 8),
        "near-ties": _figures(generator, agreement - 0.2, 4),
    }
    lr = about["lr"]
    cost = {"num_runs": 16, "tokens": 3_200_000, "flops": 1.24e13, "device_seconds": 31.7}
    guards: dict[str, list[str]] = {"barely_trained": [], "edge": [], "diverged": [], "repeated": []}
    guards |= {"leaked": [], "unpaired": []}
    if lr == BARELY_TRAINED_LR:
        guards["barely_trained"] = [recipe[0] for recipe in RECIPES[:7]]
    return {
        "candidate": name,
        "metric": metric,
        "direction": "lower-is-better",
        **_figures(generator, agreement, 7),
        "num_diverged": 0,
        "subsets": subsets,
        "model": "proxy",
        "ladder": None,
        "lr_rule": None,
        "runs_per_score": 1,
        "num_seeds": 2,
        "mean_loss": None if lr is None else 4.2 + 0.35 * abs(np.log10(lr) + 2.6) ** 1.8,
        "mean_unigram_loss": 5.87,
        "guards": guards,
        "cost": cost,
        **about,
    }


def make_comparison(seed: int = 0) -> dict[str, Any]:
    """8 recipes, a tuned truth, reduced, standard, a tuned proxy and a ladder of 5 LRs, 3 validation sets.

    One LR is barely trained, one recipe's best LR is on an edge, one candidate and one sweep point diverged.
    """
    generator = np.random.default_rng(seed)
    candidates: list[tuple[str, float, dict[str, Any]]] = [
        ("reduced", 0.86, {"kind": "reduced-lr", "lr": 2e-4, "lr_rule": "0.1 x the LR tuned on 'mix-even'"}),
        ("standard", 0.61, {"kind": "standard-lr", "lr": 2e-3, "lr_rule": "the LR tuned on 'mix-even'"}),
        ("tuned-proxy", 0.93, {"kind": "tuned", "lr": None}),
    ]
    for lr, agreement in zip(LRS, (0.32, 0.75, 0.89, 0.82, 0.54), strict=True):
        candidates.append((f"ladder@{lr:g}", agreement, {"kind": "lr-ladder", "lr": lr, "ladder": "ladder"}))
    metrics = ["loss", *(f"loss/{name}" for name in VALIDATION_SETS)]
    comparisons = [
        _entry(generator, name, metric, float(np.clip(agreement - 0.09 * place + generator.normal(0, 0.05), -1, 0.98))
               if place else agreement, **about)
        for name, agreement, about in candidates
        for place, metric in enumerate(metrics)
    ]  # fmt: skip
    _add_trouble(comparisons)
    difference = {"value": 0.25, "these_recipes": {"low": -0.04, "high": 0.47}}
    return {
        "format": "raystudy-comparison/1",
        "truth": "truth",
        "generator_seed": 0,
        "resamples": 2000,
        "study": "demo",
        "conventions": {
            "direction": "every metric is a loss in nats per token: lower is better",
            "ties": "tied scores share their mean rank; a tied pair counts one half in decision accuracy",
            "headline": "the headline leaves out recipes marked as controls",
        },
        "recipes": [_recipe(*recipe[:4]) for recipe in RECIPES],
        "comparisons": comparisons,
        "premise": _premise(),
        "contrast": {"a": "reduced", "b": "standard", "figure": "spearman", "a_value": 0.86, "b_value": 0.61,
                     "difference": difference, "outcome": "undecided", "notes": []},
        "verdict": {
            "outcome": "undecided",
            "sentence": "Undecided whether 'reduced' (LR 0.0002) or 'standard' (LR 0.002) recovers the order of "
            "'truth' better: Spearman 0.86 [0.66, 0.97] against 0.61 [0.33, 0.76], difference 0.25 [-0.04, 0.47] "
            "over 7 recipes; beware: 'standard' diverged on 1 recipe(s); the truth is on its grid's edge for 1 "
            "recipe(s).",
        },
        "tuned_losses": _tuned_losses(generator),
        "missing": [],
    }  # fmt: skip


def _add_trouble(comparisons: list[dict[str, Any]]) -> None:
    for entry in comparisons:
        if entry["candidate"] == "standard":
            entry["num_diverged"] = 1
            entry["guards"]["diverged"] = ["corpus-sources"]
            entry["pearson"] = figure(None, None)
            entry["notes"].append({"field": "pearson", "reason": "1 of the candidate's runs diverged"})
        if entry["candidate"] == "tuned-proxy":
            entry["guards"]["edge"] = ["filter-head"]
        if entry["candidate"] == "ladder@0.003":
            entry["excluded"] = [{"recipe": "dedup-loose", "reason": "the truth's runs all diverged"}]
            entry["spearman"]["these_recipes"] = None
            entry["notes"].append({"field": "these_recipes", "reason": "one seed: noise is unknown"})


def _recipe(name: str, dimension: str, family: str, control: bool) -> dict[str, Any]:
    description = f"An example of {dimension}, made up for the report's tests"
    return {
        "name": name,
        "dimension": dimension,
        "family": family,
        "control": control,
        "description": description,
    }


def _premise() -> dict[str, Any]:
    return {
        "best_fixed_lr": 0.003,
        "outcome": "reorders",
        "spearman": figure(0.93, None),
        "num_pairs": 21,
        "num_pairs_reversed": 2,
        "num_pairs_reversed_separably": 1,
        "interaction": {"f": 3.1, "numerator_dof": 18, "denominator_dof": 28, "p_value": 0.0037},
        "num_recipes_with_another_best_lr": 3,
        "notes": [{"field": "spearman.these_recipes", "reason": "not computed: the two orders share runs"}],
    }


def _tuned_losses(generator: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for place, (name, _, _, _, tuned) in enumerate(RECIPES):
        best = len(GRID) - 1 if name == "corpus-sources" else 1 + place % 2
        curve = []
        for index, lr in enumerate(GRID):
            mean = tuned + 0.11 * (index - best) ** 2
            losses: list[float | None] = [float(mean - 0.006), float(mean + 0.006 * generator.random())]
            has_diverged = name == "filter-head" and index == len(GRID) - 1
            shown = [losses[0], None] if has_diverged else losses
            average = None if has_diverged else float(np.mean([loss for loss in shown if loss is not None]))
            curve.append({"lr": lr, "losses": shown, "mean": average})
        rows.append(
            {
                "recipe": name,
                "best_lr": GRID[best],
                "loss": curve[best]["mean"],
                "standard_error": 0.0061,
                "optimistic": True,
                "edge": "high" if best == len(GRID) - 1 else None,
                "diverged_lrs": [GRID[-1]] if name == "filter-head" else [],
                "unigram_loss": 5.87,
                "noisy": name.startswith("dedup"),
                "curve": curve,
            }
        )
    return rows


def make_null_comparison() -> dict[str, Any]:
    """The same comparison with everything null that may be null, and a blocked verdict."""
    comparison = make_comparison()
    for entry in comparison["comparisons"]:
        for figures in (entry, *entry["subsets"].values()):
            _make_null(figures)
        for key in ("model", "lr_rule", "mean_loss", "mean_unigram_loss"):
            entry[key] = None
    for row in comparison["tuned_losses"]:
        row |= {
            "best_lr": None,
            "loss": None,
            "standard_error": None,
            "edge": None,
            "unigram_loss": None,
            "noisy": True,
        }
        for point in row["curve"]:
            point |= {"mean": None, "losses": [None, None]}
    comparison["premise"] = dict.fromkeys(comparison["premise"]) | {
        "outcome": "undecided",
        "spearman": figure(None, None),
        "num_pairs": 21,
        "notes": [{"field": "outcome", "reason": "needs two recipes or more with a finite loss"}],
    }
    comparison["contrast"] |= {"a_value": None, "b_value": None, "difference": {"value": None, "these_recipes": None}}
    comparison["missing"] = [
        {"protocol": protocol, "recipe": recipe[0], "reason": "no result"}
        for protocol, recipe in itertools.product(("truth", "reduced"), RECIPES)
    ]
    comparison["verdict"] = {"outcome": "blocked", "sentence": "No verdict: 16 wanted run(s) have no result."}
    return comparison


def _make_null(figures: dict[str, Any]) -> None:
    for name in AGREEMENTS:
        figures[name] = figure(None, None)
    figures["separable_decision_accuracy"] |= {"value": None, "these_recipes": None, "num_pairs": 0}
    figures["regret"] = {k: {kind: figure(None, None) for kind in kinds} for k, kinds in figures["regret"].items()}
    figures["notes"] = [{"field": name, "reason": "needs two recipes or more"} for name in (*AGREEMENTS, "regret")]


def make_provenance() -> dict[str, Any]:
    """What a study's report says about where its numbers come from."""
    return {
        "raystudy": "0.1.0",
        "created": "2026-11-23 21:00 UTC",
        "study_file": "study: demo\nrecipes: recipes/embedded.yaml\nprotocols:\n  truth: {kind: tuned}\n",
        "storage": "/data/raystudy-storage",
        "num_runs": {"finished": 143, "diverged": 1},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "devices": ["cpu"],
        "device_seconds": 412.0,
    }
