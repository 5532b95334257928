"""A study's comparison: scores from records, compared with the truth, with guards and costs.

Everything here is a function of the study, seeds and losses, save fields ending in `_seconds`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from raystudy.artifacts.study_lock import Lock
from raystudy.compare.contrast import contrast
from raystudy.compare.entries import comparison_entries
from raystudy.compare.premise import premise
from raystudy.compare.scores import Scores
from raystudy.errors import DataError
from raystudy.specs.metrics import BITS_PER_BYTE, LOSS, WEIGHTED, read_metric
from raystudy.specs.reading import Scoring
from raystudy.specs.recipe import Recipe
from raystudy.study.contradictions import contradictions
from raystudy.study.cost import cost
from raystudy.study.pairing import unpaired
from raystudy.study.preregistration import confirmatory
from raystudy.study.protocols.base import Scored
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.protocols.tuned import Tuned
from raystudy.study.state import StudyState
from raystudy.study.tuned_losses import tuned_losses
from raystudy.study.verdict import verdict
from raystudy.study.wanted import WantedRun

FORMAT = "raystudy-comparison/1"

CONVENTIONS = {
    "metric": "`loss` is the mean over the study's validation sets, each counting the same",
    "ties": "tied scores share their mean rank; a tied pair counts one half in decision accuracy",
    "divergence": "a diverged candidate run is tied worst; a diverged point of a truth sweep is skipped",
    "seeds": "a candidate is scored at its advertised number of runs: the value is the mean over its repeats; "
    "the truth is the mean over all its seeds",
    "tuned": "the truth is the lowest seed mean over the learning rates swept, chosen and scored on the same "
    "seeds and documents, and so optimistic",
    "intervals": "`these recipes`, 95%: recipes fixed, seeds drawn anew at the same numbers under a normal model of "
    "recipe x seed residuals; validation documents are not resampled yet. `recipes like these`, 95%: whole families of "
    "recipes resampled with their scores, from 8 families on, never for regret",
    "headline": "the headline leaves out recipes marked as controls",
    "cost": "tuning included; of a run that goes on beyond the step that is scored, or where a branch starts, only the "
    "steps up to there",
    "separable": "pairs of recipes whose truth differs beyond seed noise at a false-discovery rate of 5%, decided on "
    "the same seeds that are scored",
}


def compare_study(state: StudyState, lock: Lock | None = None) -> dict[str, Any]:
    """The comparison of every candidate of the study with its truth, JSON-ready; `lock` is its preregistration.

    Raises:
        DataError: fewer than two recipes have a score.
    """
    protocols = protocols_of(state.study)
    scored = {name: protocol.scored(state) for name, protocol in protocols.items()}
    truth = scored[state.study.truth][0] if scored[state.study.truth] else None
    if truth is None:
        raise DataError(f"the truth {state.study.truth!r} must have scores, but its runs are not done. Run the study")
    candidates = [item for name, items in scored.items() if name != state.study.truth for item in items]
    settings = state.study.comparison
    missing = missing_runs(state)
    comparison: dict[str, Any] = {
        "format": FORMAT,
        "study": state.study.name,
        "unit": state.unit,
        "truth": truth.name,
        "primary_metric": state.primary_metric,
        "success": settings.success,
        "generator_seed": settings.seed,
        "resamples": settings.resamples,
        "conventions": {"direction": _direction(state), **_conventions(state), **_further_conventions(state)},
        "recipes": [_recipe_row(recipe) for recipe in state.study.recipes],
        "comparisons": _entries(state, truth, candidates),
        "premise": _premise(state),
        "contrast": _contrast(state, truth, candidates),
        "tuned_losses": tuned_losses(state),
        "truth_guards": guards(state, truth.runs, state.primary_metric, truth.edges),
        "missing": missing,
        "leaked": _leaks(state),
        "looked_for_leaks": state.inputs.leaked is not None,
        "contradictions": contradictions(state, truth, candidates),
        **confirmatory(state, lock, is_complete=not missing),
    }
    comparison["verdict"] = verdict(comparison)
    return comparison


def _direction(state: StudyState) -> str:
    """Lower is better, of every metric."""
    units = {state.unit} if state.study.is_synthetic else {read_metric(metric).unit for metric in state.metrics}
    if len(units) == 1:
        return f"every metric is a loss in {state.unit}: lower is better"
    told = "every score is such that lower is better, and the primary metric's unit is " + state.unit
    if any(read_metric(metric).is_task for metric in state.metrics):
        told += "; metrics of tasks are higher-is-better in the records, and their scores are the negative"
    return told


def _further_conventions(state: StudyState) -> dict[str, str]:
    """What is said of metrics that only some studies have."""
    asked = set(state.metrics)
    weighted = {
        WEIGHTED[LOSS]: "counts every scored token of all validation sets the same",
        BITS_PER_BYTE: "is the mean over validation sets, each counting the same",
        WEIGHTED[BITS_PER_BYTE]: "counts every byte of all validation sets the same",
    }
    return {name: f"`{name}` {words}" for name, words in weighted.items() if name in asked}


def headline(state: StudyState) -> list[str]:
    """The recipes of the headline: all but controls (all, where fewer than two would be left)."""
    return list(state.headline)


def subsets(state: StudyState) -> dict[str, list[str]]:
    """Other sets of recipes a figure is given for: with controls, and near-ties (members of one family)."""
    found: dict[str, list[str]] = {}
    if len(headline(state)) < len(state.recipes):
        found["with-controls"] = list(state.recipes)
    families = [recipe.family for recipe in state.study.recipes]
    ties = [
        recipe.name
        for recipe in state.study.recipes
        if recipe.family is not None and families.count(recipe.family) > 1 and not recipe.control
    ]
    if len(ties) > 1:
        found["near-ties"] = ties
    return found


def _leaks(state: StudyState) -> list[dict[str, Any]]:
    """Share of each validation set's documents that a recipe compared holds too, where it is too much."""
    return [
        {"recipe": recipe, "validation": name, "share": share}
        for recipe in state.recipes
        for name, share in (state.inputs.leaked or {}).get(recipe, {}).items()
    ]


def _recipe_row(recipe: Recipe) -> dict[str, Any]:
    row = {field: getattr(recipe, field) for field in ("name", "dimension", "control", "description")}
    return {**row, "family": recipe.family_name}


def missing_runs(state: StudyState) -> list[dict[str, Any]]:
    """Every wanted run without a score, by protocol, and what waits. A shared run is listed with each protocol."""
    rows: list[dict[str, Any]] = []
    for name, protocol in protocols_of(state.study).items():
        demand = protocol.demand(state)
        for run in demand.runs:
            if not state.is_done(run) or state.is_out_of_memory(run):
                why = "out of memory" if state.is_done(run) else "no result"
                rows.append({"protocol": name, "recipe": run.recipe, "reason": f"{why}: {run}", "num_runs": 1})
        for item in demand.waiting:
            reason = f"{item.num_runs} runs wait for {item.reason}"
            rows.append({"protocol": name, "recipe": "all", "reason": reason, "num_runs": item.num_runs})
    return rows


def _entries(state: StudyState, truth: Scored, candidates: Sequence[Scored]) -> list[dict[str, Any]]:
    by_metric: dict[str, dict[str, dict[str, Any]]] = {}
    for metric in state.metrics:
        having = [candidate for candidate in candidates if metric in candidate.scores]
        if metric not in truth.scores or not having:
            continue
        entries = comparison_entries(
            truth.scores[metric],
            [candidate.scores[metric] for candidate in having],
            metric=metric,
            recipes=headline(state),
            subsets=subsets(state),
            seed=state.study.comparison.seed,
            resamples=state.study.comparison.resamples,
            families={recipe.name: recipe.family_name for recipe in state.study.recipes},
        )
        by_metric[metric] = {entry["candidate"]: entry for entry in entries}
    return [
        {**by_metric[metric][candidate.name], **_about(state, candidate, metric)}
        for candidate in candidates
        for metric in by_metric
        if candidate.name in by_metric[metric]
    ]


def _about(state: StudyState, candidate: Scored, metric: str) -> dict[str, Any]:
    """What a study adds to an entry: where the scores come from, guards, cost."""
    chosen = [run for recipe in headline(state) for run in candidate.runs.get(recipe, ())]
    scores = candidate.scores[metric]
    return {
        "kind": candidate.kind,
        "model": candidate.model,
        "ladder": candidate.ladder,
        "lr": candidate.lr,
        "lr_rule": candidate.lr_rule,
        **_scoring_fields(candidate.scoring),
        **({"settings": dict(candidate.changes)} if candidate.changes else {}),
        "runs_per_score": scores.runs_per_score or scores.values.shape[1],
        "num_seeds": scores.values.shape[1],
        **({"direction": "higher-is-better"} if read_metric(metric).is_task else {}),
        "mean_loss": _mean(state.loss(run, metric) for run in chosen),
        "mean_unigram_loss": _mean(state.unigram_loss(run, metric) for run in chosen),
        "guards": guards(state, candidate.runs, metric, candidate.edges),
        "cost": cost(state, candidate.all_runs),
    }


def _scoring_fields(scoring: Scoring | None) -> dict[str, Any]:
    """Which weights are scored: null where they are the last of the run itself."""
    step, readout, branch = (None, None, None) if scoring is None else (scoring.step, scoring.readout, scoring.branch)
    return {
        "step": step,
        "readout": None if readout is None else readout.model_dump(mode="json"),
        "branch": None if branch is None else branch.model_dump(mode="json"),
    }


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def guards(
    state: StudyState, runs: Mapping[str, Sequence[WantedRun]], metric: str, edges: Mapping[str, str]
) -> dict[str, list[str]]:
    """Recipes whose score should not be taken at face value, by reason."""
    guard = read_metric(metric).guard  # of a task too: whether it is trained is told by its loss
    flags: dict[str, list[str]] = {"barely_trained": [], "edge": [], "diverged": [], "repeated": []}
    flags |= {"leaked": [name for name in runs if state.leaked_sets(name, metric)], "unpaired": unpaired(state, runs)}
    for recipe, members in runs.items():
        losses = [(state.loss(run, guard), state.unigram_loss(run, guard)) for run in members]
        if any(math.isfinite(loss) and loss >= floor for loss, floor in losses):
            flags["barely_trained"].append(recipe)
        if recipe in edges:
            flags["edge"].append(recipe)
        if any(math.isinf(loss) for loss, _ in losses):
            flags["diverged"].append(recipe)
        if any(_has_repeated(state, run) for run in members):
            flags["repeated"].append(recipe)
    return flags


def _has_repeated(state: StudyState, run: WantedRun) -> bool:
    """Whether a source was read more than once up to the weights that are scored."""
    record = state.record(run)
    epochs = () if record is None else record.result.get("epochs_per_source", ())
    return any(share * run.share_needed > 1 for share in epochs)


def _conventions(state: StudyState) -> dict[str, str]:
    """What the page says of how it counts; a truth that sweeps more than learning rates says so."""
    truth = protocols_of(state.study)[state.study.truth]
    if not isinstance(truth, Tuned) or truth.spec.space.is_plain:
        return CONVENTIONS
    tuned = CONVENTIONS["tuned"].replace("learning rates swept", f"points swept ({', '.join(truth.spec.space.axes)})")
    if truth.spec.space.tokens is not None:
        tuned += "; token budgets are swept too, so that it is the lowest over budgets"
    return {**CONVENTIONS, "tuned": tuned}


def _premise(state: StudyState) -> dict[str, Any] | None:
    """Does tuning reorder the recipes here? Only a tuned truth can say."""
    truth = protocols_of(state.study)[state.study.truth]
    if not isinstance(truth, Tuned):
        return None
    names = headline(state)
    losses = np.stack([truth.sweep(state, recipe).losses for recipe in names])
    settings = state.study.comparison
    points = truth.grid(state).points
    # Where points are more than learning rates, they stand in the order of the sweep.
    order = list(truth.lrs(state)) if truth.spec.space.is_plain else [float(place) for place in range(len(points))]
    found = premise(losses, order, names, seed=settings.seed, resamples=settings.resamples)
    if truth.spec.space.is_plain or found["best_fixed_lr"] is None:
        return found
    fixed = points[int(found["best_fixed_lr"])]
    return {**found, "best_fixed_lr": fixed.lr, "best_fixed_settings": fixed.settings}


def _contrast(state: StudyState, truth: Scored, candidates: Sequence[Scored]) -> dict[str, Any] | None:
    """Does the first candidate of the contrast recover the truth better than the second?"""
    settings = state.study.comparison
    metric = state.primary_metric
    named: dict[str, Scores] = {c.name: c.scores[metric] for c in candidates if metric in c.scores}
    if settings.contrast is None or any(name not in named for name in settings.contrast):
        return None
    first, second = (named[name] for name in settings.contrast)
    return contrast(
        truth.scores[metric],
        first,
        second,
        recipes=headline(state),
        seed=settings.seed,
        resamples=settings.resamples,
    )
