"""A table of scores, compared with the same code as a study: scores in, a comparison of the same format out.

A plain table has no advertised number of runs, so scores are averaged over seeds; each recipe is its own family. A
metric of which higher is better is negated here, once; everything below is lower-is-better. Reads no files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raystudy.artifacts.score_table import ScoreRow
from raystudy.compare.contrast import contrast
from raystudy.compare.entries import comparison_entries
from raystudy.compare.long_form import scores_of_cells
from raystudy.compare.scores import Scores
from raystudy.errors import DataError
from raystudy.study.comparing import FORMAT
from raystudy.study.state import PRIMARY_METRIC
from raystudy.study.verdict import verdict

UNIT = "score"
ONLY_METRIC = "score"  # the name of the metric of a table without a column for it

_CONVENTIONS = {
    "metric": "each metric of the table is compared by itself; the primary one is `loss` if there is one of that name, "
    "else the first by name",
    "ties": "tied scores share their mean rank; a tied pair counts one half in decision accuracy",
    "seeds": "a table has no advertised number of runs: scores are means over all seeds. Seeds are blocks where all "
    "recipes of a protocol have the same; where they differ a score is the mean over the seeds its recipe has",
    "intervals": "`these recipes`, 95%: recipes fixed, seeds drawn anew at the same numbers under a normal model of "
    "recipe x seed residuals; needs the same two seeds or more for all recipes, on both sides. `recipes like these`, "
    "95%: recipes, each its own family, resampled with their scores, from 8 recipes on, never for regret",
    "excluded": "a recipe without a score on either side is left out and named",
    "separable": "pairs of recipes whose truth differs beyond seed noise at a false-discovery rate of 5%, decided on "
    "the same seeds that are scored",
}
_GUARDS = ("barely_trained", "edge", "diverged", "repeated", "leaked", "unpaired")


@dataclass(frozen=True)
class TableQuestion:
    """What is compared: names as in the table. `higher_is_better` holds the metrics to negate."""

    name: str
    truth: str
    candidates: tuple[str, ...]
    higher_is_better: frozenset[str]
    seed: int
    resamples: int


def protocols_in(rows: Sequence[ScoreRow]) -> list[str]:
    """Names of the table's protocols, in order of name."""
    return sorted({row.protocol for row in rows if row.protocol is not None})


def metrics_in(rows: Sequence[ScoreRow]) -> list[str]:
    """Names of the table's metrics, the primary one first, then in order of name."""
    names = sorted({_metric(row) for row in rows})
    primary = PRIMARY_METRIC if PRIMARY_METRIC in names else names[0]
    return [primary, *(name for name in names if name != primary)]


def compare_table(rows: Sequence[ScoreRow], question: TableQuestion) -> dict[str, Any]:
    """The comparison of each candidate of the table with its truth, JSON-ready.

    The order of rows moves nothing. Names must be those of the table.

    Raises:
        DataError: there are fewer than two recipes, or the truth has no score on any metric.
    """
    chosen = {question.truth, *question.candidates}
    rows = [row for row in rows if row.protocol in chosen]
    recipes = sorted({row.recipe for row in rows})
    if len(recipes) < 2:
        raise DataError(f"{question.name} must have two recipes or more to compare, but has {len(recipes)}")
    having_truth = {_metric(row) for row in rows if row.protocol == question.truth}
    metrics = [metric for metric in metrics_in(rows) if metric in having_truth]
    left_out = [metric for metric in metrics_in(rows) if metric not in having_truth]
    entries: list[dict[str, Any]] = []
    sides: dict[str, dict[str, Scores]] = {}
    for metric in metrics:
        sides[metric], ragged = _sides(rows, metric, recipes, question.higher_is_better)
        entries += _entries(sides[metric], ragged, metric, recipes, question)
    comparison: dict[str, Any] = {
        "format": FORMAT,
        "study": question.name,
        "unit": UNIT,
        "primary_metric": metrics[0],
        "truth": question.truth,
        "generator_seed": question.seed,
        "resamples": question.resamples,
        "conventions": _conventions(metrics, left_out, question.higher_is_better),
        "recipes": [_recipe_row(recipe) for recipe in recipes],
        "comparisons": entries,
        "premise": None,
        "contrast": _contrast(sides[metrics[0]], recipes, question),
        "tuned_losses": [],
        "truth_guards": {guard: [] for guard in _GUARDS},
        "missing": [],
        "leaked": [],
        "looked_for_leaks": None,
        "contradictions": [],
        "success": None,
        "confirmatory": False,
        "confirmatory_reason": "",
    }
    comparison["verdict"] = verdict(comparison)
    return comparison


def _metric(row: ScoreRow) -> str:
    return ONLY_METRIC if row.metric is None else row.metric


def _sides(
    rows: Sequence[ScoreRow], metric: str, recipes: Sequence[str], negated: Collection[str]
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores of each protocol on a metric over the recipes that it has, and why some have no seeds as columns."""
    cells: dict[str, dict[tuple[str, str], float]] = {}
    sign = -1.0 if metric in negated else 1.0
    for row in rows:
        if _metric(row) == metric:
            cells.setdefault(str(row.protocol), {})[row.recipe, row.seed or ""] = sign * row.score
    sides: dict[str, Scores] = {}
    ragged: dict[str, str] = {}
    for name, found in cells.items():
        having = {recipe for recipe, _ in found}
        sides[name], reason = scores_of_cells(name, found, [recipe for recipe in recipes if recipe in having])
        if reason is not None:
            ragged[name] = reason
    return sides, ragged


def _entries(
    sides: Mapping[str, Scores],
    ragged: Mapping[str, str],
    metric: str,
    recipes: Sequence[str],
    question: TableQuestion,
) -> list[dict[str, Any]]:
    truth = sides[question.truth]
    candidates = [sides[name] for name in question.candidates if name in sides]
    entries = comparison_entries(
        truth, candidates, metric=metric, recipes=recipes, subsets={}, seed=question.seed, resamples=question.resamples
    )
    direction = "higher-is-better" if metric in question.higher_is_better else "lower-is-better"
    found = []
    for scores, entry in zip(candidates, entries, strict=True):
        reason = ragged.get(truth.name) or ragged.get(scores.name)
        found.append({**entry, "direction": direction, "notes": _notes(entry["notes"], reason), **_about(scores)})
    return found


def _notes(notes: Sequence[Mapping[str, str]], reason: str | None) -> list[dict[str, str]]:
    """The notes; where seeds differ between recipes that is why there is no interval."""
    return [
        {**note, "reason": reason} if reason and note["field"].endswith("these_recipes") else dict(note)
        for note in notes
    ]


def _about(scores: Scores) -> dict[str, Any]:
    """What a study adds to an entry, null or empty where a table cannot know it."""
    return {
        "kind": "table",
        "model": None,
        "ladder": None,
        "step": None,
        "readout": None,
        "branch": None,
        "lr": None,
        "lr_rule": None,
        "runs_per_score": scores.num_seeds,
        "num_seeds": scores.num_seeds,
        "mean_loss": None,
        "mean_unigram_loss": None,
        "guards": {guard: [] for guard in _GUARDS},
        "cost": {"num_runs": None, "tokens": None, "flops": None, "device_seconds": None},
    }


def _contrast(sides: Mapping[str, Scores], recipes: Sequence[str], question: TableQuestion) -> dict[str, Any] | None:
    """Of exactly two candidates, which agrees better with the truth?"""
    named = [sides[name] for name in question.candidates if name in sides]
    if len(named) != 2:
        return None
    return contrast(sides[question.truth], *named, recipes=recipes, seed=question.seed, resamples=question.resamples)


def _conventions(metrics: Sequence[str], left_out: Sequence[str], negated: Collection[str]) -> dict[str, str]:
    higher = [metric for metric in metrics if metric in negated]
    lower = [metric for metric in metrics if metric not in negated]
    parts = [f"lower is better: {', '.join(map(repr, lower))}"] if lower else []
    if higher:
        parts.append(f"higher is better, negated once when read: {', '.join(map(repr, higher))}")
    conventions = {"direction": "; ".join(parts), **_CONVENTIONS}
    if left_out:
        conventions["left out"] = f"the truth has no score on {', '.join(map(repr, left_out))}"
    return conventions


def _recipe_row(recipe: str) -> dict[str, Any]:
    return {"name": recipe, "dimension": None, "control": False, "description": None, "family": recipe}
