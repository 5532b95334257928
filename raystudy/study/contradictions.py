"""What no study can hold unless the instrument is wrong: each contradiction is told and blocks the verdict.

- A recipe's runs read its own data (synthetic recipes: what their weights say; text is compared where it is read).
- A loss is above what any model can reach: 0 in nats; on a synthetic set the noise of its labels.
- A score is the loss of that recipe's own runs.
- The truth compared with itself agrees wholly and costs no regret; turned upside down it disagrees wholly.

Knows nothing of storage or pages.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from raystudy.compare.figures import point_figures
from raystudy.compare.scores import Scores
from raystudy.specs.base import digest
from raystudy.specs.run import ProbeRun
from raystudy.study.protocols.base import Scored
from raystudy.study.state import PRIMARY_METRIC, StudyState
from raystudy.study.synthetic import data_of, validation_data
from raystudy.study.wanted import WantedRun

_MIN_RECIPES = 3  # for a correlation
_EXACT = 1e-9


def contradictions(state: StudyState, truth: Scored, candidates: Sequence[Scored]) -> list[str]:
    """One sentence for each contradiction; none in a study that can be trusted."""
    everyone = [truth, *candidates]
    runs = {(run.run_id, run.reading): run for scored in everyone for run in scored.all_runs}
    found = [*_foreign_data(state, runs.values()), *_impossible_losses(state, runs.values())]
    for scored in everyone:
        found += _foreign_scores(state, scored)
    return found + _mirror(next(iter(truth.scores.values())))


def _foreign_data(state: StudyState, runs: Iterable[WantedRun]) -> list[str]:
    """Runs on synthetic recipes that read other data than their recipe's."""
    if not state.study.is_synthetic:
        return []
    own = {recipe.name: digest(data_of(state.study, recipe)) for recipe in state.study.all_recipes}
    foreign = {run.recipe: run for run in runs if run.run.shards != own[run.recipe]}
    return [
        f"runs of recipe {recipe!r} must read its data, but read others (first: {run})"
        for recipe, run in foreign.items()
    ]


def _impossible_losses(state: StudyState, runs: Iterable[WantedRun]) -> list[str]:
    """Losses under what any model can reach."""
    found = []
    lowest = {name: _lowest_loss(state, name) for name in state.study.validation}
    trained = [run for run in runs if not isinstance(run.run, ProbeRun)]
    for name, bound in lowest.items():
        losses = [(state.loss(run, f"{PRIMARY_METRIC}/{name}"), run) for run in trained]
        wrong = [(loss, run) for loss, run in losses if loss < bound - _EXACT]
        if wrong:
            loss, run = wrong[0]
            found.append(f"no loss on {name!r} can be under {bound:g}, but {len(wrong)} are (first: {loss:g} of {run})")
    return found


def _lowest_loss(state: StudyState, validation: str) -> float:
    """Nats are not negative; a squared error is at least the variance of the labels' noise."""
    if not state.study.is_synthetic:
        return 0.0
    data = validation_data(state.study, validation)
    return float(sum(w * domain.noise_variance for w, domain in zip(data.weights, data.domains, strict=True)))


def _foreign_scores(state: StudyState, scored: Scored) -> list[str]:
    """Scores that are not the losses of the runs that are said to stand behind them."""
    found = []
    for metric, scores in scored.scores.items():
        rows = dict(zip(scores.recipes, scores.values, strict=True))
        foreign = [
            recipe
            for recipe, runs in scored.runs.items()
            if {run.recipe for run in runs} != {recipe}
            or not np.array_equal(rows[recipe], [state.loss(run, metric) for run in runs], equal_nan=True)
        ]
        if foreign:
            named = ", ".join(map(repr, foreign))
            found.append(f"scores of {scored.name!r} on {metric!r} must be the losses of their runs; not so: {named}")
    return found


def _mirror(truth: Scores) -> list[str]:
    """Whether the comparison says of the truth itself, and of the truth upside down, what must be said."""
    means = truth.means()
    means = means[np.isfinite(means)]
    if len(means) < _MIN_RECIPES or np.ptp(means) == 0.0:
        return []
    same, reversed_ = (point_figures(means, values[None], None) for values in (means, -means))
    expected = {"spearman": 1.0, "kendall_tau_b": 1.0, "decision_accuracy": 1.0, "regret.1.best_of_k": 0.0}
    opposite = {"spearman": -1.0, "kendall_tau_b": -1.0, "decision_accuracy": 0.0, "regret.1.best_of_k": np.ptp(means)}
    return [
        f"the truth compared with itself{turned} must give {figure} {value:g}, but gives {came[figure]:g}"
        for turned, came, right in ((("", same, expected)), (" upside down", reversed_, opposite))
        for figure, value in right.items()
        if abs(came[figure] - value) > _EXACT
    ]
