"""The mutation test of the instrument: defects of labels, signs and seeds, planted one at a time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import raystudy.compare.figures
import raystudy.study.protocols.given
import raystudy.study.protocols.lr_ladder
from raystudy.compare.scores import Scores
from raystudy.study.state import StudyState
from tests.mutation.instrument import KNOWN_TRUTH, Seen, instrument, unpaired
from tests.mutation.known_truth import unrecovered


@pytest.fixture(scope="module")
def known_twin(known) -> Seen:
    """The study seen again without any defect."""
    twin = instrument(KNOWN_TRUTH, known)
    assert twin["made"] == 0
    return twin


def next_recipe(state: StudyState, recipe: str) -> str:
    return state.recipes[(state.recipes.index(recipe) + 5) % len(state.recipes)]


def shuffle_what_runs_read(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.want
    patch.setattr(
        StudyState,
        "want",
        lambda state, model, recipe, lr, seed, *scoring: replace(
            real(state, model, next_recipe(state, recipe), lr, seed, *scoring), recipe=recipe
        ),
    )


def shuffle_two_recipes_that_runs_read(patch: pytest.MonkeyPatch) -> None:
    real, swapped = StudyState.want, {"mix-0102": "mix-0120", "mix-0120": "mix-0102"}
    patch.setattr(
        StudyState,
        "want",
        lambda state, model, recipe, lr, seed, *scoring: replace(
            real(state, model, swapped.get(recipe, recipe), lr, seed, *scoring), recipe=recipe
        ),
    )


def shuffle_all_losses(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.loss

    def loss(state, wanted, metric):
        other = next_recipe(state, wanted.recipe)
        return real(state, state.want(wanted.model, other, wanted.lr, wanted.seed), metric)

    patch.setattr(StudyState, "loss", loss)


def changed_scores(patch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    real = raystudy.study.protocols.lr_ladder.score_at

    def score_at(*arguments):
        scored = real(*arguments)
        scores = {m: Scores(s.name, s.recipes, change(s.values), s.runs_per_score) for m, s in scored.scores.items()}
        return replace(scored, scores=scores)

    patch.setattr(raystudy.study.protocols.lr_ladder, "score_at", score_at)


def changed_truth(patch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    real = raystudy.study.protocols.given._best_achievable
    patch.setattr(
        raystudy.study.protocols.given,
        "_best_achievable",
        lambda state: {metric: change(values) for metric, values in real(state).items()},
    )


def flip_all_losses(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.loss
    patch.setattr(StudyState, "loss", lambda state, wanted, metric: -real(state, wanted, metric))


def flip_regret(patch: pytest.MonkeyPatch) -> None:
    real = raystudy.compare.figures.best_of_k
    patch.setattr(raystudy.compare.figures, "best_of_k", lambda truth, scores, k: real(truth, -scores, k))


def flip_correlations(patch: pytest.MonkeyPatch) -> None:
    real = raystudy.compare.figures.spearman
    patch.setattr(raystudy.compare.figures, "spearman", lambda truth, scores: real(truth, -scores))
    ranked = raystudy.compare.figures.rank_correlation
    patch.setattr(raystudy.compare.figures, "rank_correlation", lambda truth, scores: -ranked(truth, scores))


def turn_the_seeds_of_one_recipe(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.grid

    def grid(state, model, recipes, lrs, seeds, *scoring):
        names = list(recipes)
        return real(state, model, names, lrs, tuple(seeds)[::-1] if names == ["mix-0300"] else seeds, *scoring)

    patch.setattr(StudyState, "grid", grid)


def contradiction(words: str) -> Callable[[Seen], bool]:
    """The guard `contradictions`: told with these words, and the verdict blocked."""
    return lambda seen: (
        any(words in told for told in seen["contradictions"]) and seen["verdict"]["outcome"] == "blocked"
    )


def known_truth(seen: Seen) -> bool:
    """The guard `known truth` (tests/mutation/known_truth.py)."""
    return unrecovered(seen) is not None


ROWS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[Seen], bool]]] = {
    "labels shuffled: what runs read": (shuffle_what_runs_read, contradiction("must read its data")),
    "labels shuffled: two recipes": (shuffle_two_recipes_that_runs_read, contradiction("must read its data")),
    "labels shuffled: one protocol's scores": (
        lambda patch: changed_scores(patch, lambda values: np.roll(values, 5, axis=0)),
        contradiction("must be the losses of their runs"),
    ),
    "labels shuffled: all losses": (shuffle_all_losses, known_truth),
    "labels shuffled: the truth": (lambda patch: changed_truth(patch, lambda values: np.roll(values, 5)), known_truth),
    "sign flipped: all losses": (flip_all_losses, contradiction("can be under")),
    "sign flipped: one protocol's scores": (
        lambda patch: changed_scores(patch, np.negative),
        contradiction("must be the losses of their runs"),
    ),
    "sign flipped: the truth": (lambda patch: changed_truth(patch, np.negative), known_truth),
    "sign flipped: regret": (flip_regret, contradiction("must give regret")),
    "sign flipped: correlations": (flip_correlations, contradiction("must give spearman")),
    "seeds not paired: one recipe's seeds in another order": (turn_the_seeds_of_one_recipe, unpaired),
}


@pytest.mark.parametrize("defect", ROWS)
def test_a_planted_defect_of_labels_signs_or_seeds_is_caught_and_its_twin_passes(defect, known, known_twin):
    plant, fires = ROWS[defect]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        assert fires(instrument(KNOWN_TRUTH, known)), "the guard must fire"
    assert not fires(known_twin), "the guard must be silent on the twin"
    assert known_twin["contradictions"] == []
