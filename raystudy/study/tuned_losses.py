"""The truth's sweep as a table: tuned loss per recipe with its best learning rate and flags."""

import math
from typing import Any

from raystudy.compare.noise import seed_noise
from raystudy.compare.scores import Scores
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.protocols.tuned import Tuned
from raystudy.study.state import StudyState
from raystudy.study.sweep import Sweep

_NOISE_Z = 1.96  # a gap under this many standard errors of a difference is called noise


def tuned_losses(state: StudyState) -> list[dict[str, Any]]:
    """One row per recipe, in the study's order; empty where the truth is not tuned by this study."""
    truth = protocols_of(state.study)[state.study.truth]
    if not isinstance(truth, Tuned):
        return []
    scores = truth.scored(state)[0].scores[state.primary_metric]
    error = _standard_error(scores)
    rows = [_row(state, truth, recipe, error) for recipe in state.recipes]
    losses = [row["loss"] for row in rows]
    for index, row in enumerate(rows):
        row["noisy"] = _is_noisy(losses, index, error)
    return rows


def _standard_error(scores: Scores) -> float | None:
    noise = seed_noise(scores)
    return None if noise is None else math.sqrt(noise.variance / scores.num_seeds)


def _row(state: StudyState, truth: Tuned, recipe: str, error: float | None) -> dict[str, Any]:
    sweep = truth.sweep(state, recipe)
    best = sweep.best if sweep.is_complete else None
    first = state.want(truth.spec.model, recipe, sweep.points[0], truth.spec.seeds[0])
    floor = state.unigram_loss(first, state.primary_metric)
    trigram = state.trigram_loss(first, state.primary_metric)
    return {
        "recipe": recipe,
        "best_lr": None if best is None else sweep.points[best].lr,
        "loss": None if best is None else float(sweep.means[best]),
        "standard_error": error,
        "optimistic": True,
        "edge": sweep.edge,
        "diverged_lrs": list(sweep.diverged_lrs),
        "unigram_loss": floor if math.isfinite(floor) else None,
        "trigram_loss": trigram if math.isfinite(trigram) else None,
        "curve": [_losses_at(sweep, place) for place in sweep.profile],
        **_other_axes(truth, sweep, best),
    }


def _losses_at(sweep: Sweep, place: int) -> dict[str, Any]:
    mean = sweep.means[place]
    return {
        "lr": sweep.points[place].lr,
        "losses": [loss if math.isfinite(loss) else None for loss in sweep.losses[place].tolist()],
        "mean": float(mean) if math.isfinite(mean) else None,
    }


def _other_axes(truth: Tuned, sweep: Sweep, best: int | None) -> dict[str, Any]:
    """What is said of a space that is not learning rates alone: `curve` is then the best over the other axes."""
    space = truth.spec.space
    if space.is_plain and space.random is None:
        return {}
    points = [_losses_at(sweep, place) | {"settings": point.settings} for place, point in enumerate(sweep.points)]
    settings = None if best is None else sweep.points[best].settings
    return {"best_settings": settings, "is_random": space.random is not None, "points": points}


def _is_noisy(losses: list[float | None], index: int, error: float | None) -> bool:
    """Whether the nearest other tuned loss is closer than seeds allow to tell; unknown counts as noisy."""
    mine = losses[index]
    others = [loss for place, loss in enumerate(losses) if place != index and loss is not None]
    if mine is None or error is None or not others:
        return True
    return min(abs(mine - other) for other in others) < _NOISE_Z * math.sqrt(2) * error
