"""One draw of the design of search_spaces/random-features.yaml: the study as it is run, beside what theory says of it.

Knows nothing of criteria or pages.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import raystudy
from raystudy.compare.agreement import spearman
from raystudy.specs.load import load_study
from raystudy.specs.study import StudySpec
from raystudy.specs.training import SgdSettings
from raystudy.study.feature_predictions import exact_agreement, predicted_agreement
from raystudy.study.feature_theory import HeadMoments, head_moments
from raystudy.study.results import StudyResults
from raystudy.study.synthetic import (
    best_achievable_loss,
    data_of,
    gradient_alignment,
    moments,
    spectrum,
    validation_data,
)
from raystudy.train.features import averaged_steps, rates

STUDY = Path(__file__).resolve().parents[2] / "search_spaces" / "random-features.yaml"
BUDGETS = ("short", "long")
RIVALS = ("decay", "average")
TINY_LR = 1e-6  # stands for the limit of a small learning rate


class Draw:
    """A study's results and the exact moments that belong to it."""

    def __init__(self, number: int, results: StudyResults, seconds: float) -> None:
        self.number, self.results, self.seconds = number, results, seconds
        study = results.study
        self.target = validation_data(study, next(iter(study.validation)))
        self.data = [data_of(study, recipe) for recipe in study.recipes]
        self.names = [recipe.name for recipe in study.recipes]
        self.truth = np.array([best_achievable_loss(data, self.target) for data in self.data])
        self.features, self.features_draw = study.models["short"].features, study.models["short"].draw
        self.validation = moments(self.target, self.features, self.features_draw)
        self.spectra = [spectrum(data, self.features, self.features_draw) for data in self.data]
        entries = results.comparison_json["comparisons"]
        self.entries = {entry["candidate"]: entry for entry in entries if entry["metric"] == "loss"}
        self.agreement = {name: entry["spearman"]["value"] for name, entry in self.entries.items()}

    @property
    def study(self) -> StudySpec:
        return self.results.study

    @property
    def lrs(self) -> tuple[float, ...]:
        return tuple(float(lr) for lr in self.study.protocols["short"].space.lr.values())

    @property
    def num_seeds(self) -> int:
        return len(self.study.protocols["short"].seeds)

    @property
    def standard_lr(self) -> float:
        return float(self.entries["short-standard"]["lr"])

    @lru_cache(maxsize=8)  # noqa: B019 - a draw lives as long as its figures are worked out
    def heads(self, model: str, lrs: tuple[float, ...]) -> HeadMoments:
        """Exact moments of `model` on all recipes at `lrs`."""
        training = self.study.models[model].training.model_dump()
        settings = [SgdSettings(lr=lr, **training) for lr in lrs]
        schedule = np.stack([rates(one) for one in settings])
        return head_moments(self.spectra, settings[0].batch_samples, schedule, averaged_steps(settings[0]))

    def scores(self, protocol: str) -> np.ndarray:
        """Scores [seed, recipe] of a protocol."""
        frame = self.results.scores
        own = frame[(frame.protocol == protocol) & (frame.metric == "loss")]
        return own.pivot(index="seed", columns="recipe", values="score")[self.names].to_numpy()


@dataclass(frozen=True)
class Size:
    """How much is run: seeds of every protocol and of the short ladder, steps between the recipes taken, batches."""

    num_seeds: int = 5
    many_seeds: int = 24
    every: int = 1
    every_with_many: int = 1
    batches: int = 8000
    workers: int = 2


def run_draw(number: int, storage: Path, size: Size, *, with_many_seeds: bool = False) -> Draw:
    """Run the shipped study with the design drawn anew and the seeds of its protocols cut or extended.

    `with_many_seeds`: the ladder at the short budget, alone of all, has `size.many_seeds`.
    """
    study = load_study(STUDY).spec
    overrides = [f"synthetic.draw={number}", *(f"models.{name}.draw={number}" for name in study.models)]
    for name, protocol in study.protocols.items():
        if hasattr(protocol, "seeds") and protocol.kind != "gradient-alignment":  # exact here, without seeds
            chosen = size.many_seeds if with_many_seeds and name == "short" else size.num_seeds
            overrides.append(f"protocols.{name}.seeds={list(range(chosen))}")
    recipes = [recipe.name for recipe in study.recipes][:: size.every_with_many if with_many_seeds else size.every]
    overrides += [f"name=random-features-{number}{'-many-seeds' if with_many_seeds else ''}"]
    overrides += [f"recipes=[{', '.join(recipes)}]", "comparison.resamples=100"]
    started = time.perf_counter()
    results = raystudy.run(STUDY, storage=storage, local=True, workers=size.workers, overrides=overrides)
    return Draw(number, results, time.perf_counter() - started)


def ladder_rows(draw: Draw, budget: str) -> list[dict[str, float]]:
    """Per learning rate: measured, predicted and exact agreement, and the spread of a single run's agreement."""
    heads = draw.heads(budget, draw.lrs)
    generator = np.random.default_rng((draw.number, BUDGETS.index(budget)))
    predicted = predicted_agreement(heads, draw.validation, draw.truth, generator)
    losses = heads.expected_losses(draw.validation)
    exact = exact_agreement(losses, draw.truth)
    columns = (draw.lrs, predicted.mean, predicted.spread, exact, losses.mean(axis=0))
    return [
        {
            "lr": float(lr),
            "measured": draw.agreement[f"{budget}@{lr:g}"],
            "predicted": float(mean),
            "spread": float(spread),
            "exact": float(whole),
            "mean_loss": float(loss),
        }
        for lr, mean, spread, whole, loss in zip(*columns, strict=True)
    ]


def loss_z_scores(draw: Draw, budget: str) -> np.ndarray:
    """(mean loss over seeds - exact) / standard error, [recipe, rate]."""
    frame = draw.results.runs
    own = frame[(frame.model == budget) & frame.recipe.isin(draw.names) & frame.lr.isin(draw.lrs)]
    grouped = own.groupby(["recipe", "lr"]).loss
    mean = grouped.mean().unstack().loc[draw.names].to_numpy()
    error = (grouped.std() / np.sqrt(grouped.count())).unstack().loc[draw.names].to_numpy()
    return (mean - draw.heads(budget, draw.lrs).expected_losses(draw.validation)) / error


def orders(draw: Draw, budget: str) -> dict[str, float]:
    """Tuning, the carried-over and the best-on-average learning rate at one budget: exact, and measured over seeds."""
    exact = draw.heads(budget, draw.lrs).expected_losses(draw.validation)
    carried = draw.heads(budget, (draw.standard_lr,)).expected_losses(draw.validation)[:, 0]
    ladder = np.stack([draw.scores(f"{budget}@{lr:g}").mean(axis=0) for lr in draw.lrs], axis=1)
    means = {name: draw.scores(f"{budget}-{name}").mean(axis=0) for name in ("tuned", "standard")}
    found: dict[str, float] = {}
    for kind, losses, tuned, standard in (
        ("exact", exact, exact.min(axis=1), carried),
        ("measured", ladder, means["tuned"], means["standard"]),
    ):
        average = int(losses.mean(axis=0).argmin())
        agreement = spearman(draw.truth, losses.T)
        found |= {
            f"best_{kind}": float(agreement.max()),
            f"standard_{kind}": float(spearman(draw.truth, standard)),
            f"tuned_{kind}": float(spearman(draw.truth, tuned)),
            f"average_lr_{kind}": draw.lrs[average],
            f"best_on_average_{kind}": float(agreement[average]),
            f"rho_tuned_standard_{kind}": float(spearman(tuned, standard)),
            f"rho_tuned_best_on_average_{kind}": float(spearman(tuned, losses[:, average])),
        }
        if kind == "measured":
            found["best_on_average_single"] = draw.agreement[f"{budget}@{draw.lrs[average]:g}"]
    return found


def rivals(draw: Draw, budget: str) -> dict[str, float | None]:
    """Decay to zero and averaging at the standard learning rate: exact, and single runs where the study has them."""
    found: dict[str, float | None] = {}
    for rival in RIVALS:
        losses = draw.heads(f"{budget}-{rival}", (draw.standard_lr,)).expected_losses(draw.validation)
        found[f"{rival}_exact"] = float(exact_agreement(losses, draw.truth)[0])
        found[f"{rival}_single"] = draw.agreement.get(f"{budget}-{rival}")
    return found


def small_rate(draw: Draw) -> dict[str, float]:
    """The limit of a small learning rate at the short budget, and gradient alignment."""
    alignments = [gradient_alignment(data, draw.target, draw.features, draw.features_draw) for data in draw.data]
    limit = draw.heads("short", (TINY_LR,)).expected_losses(draw.validation)
    return {
        "alignment": float(spearman(draw.truth, -np.array(alignments))),
        "alignment_in_study": draw.agreement["alignment"],
        "limit": float(exact_agreement(limit, draw.truth)[0]),
        "smallest_lr": draw.lrs[0],
        "smallest_measured": draw.agreement[f"short@{draw.lrs[0]:g}"],
    }


def figures_of(draw: Draw) -> dict[str, Any]:
    """All that the criteria look at, of one draw; `one_step.py` has the rest."""
    return {
        "draw": draw.number,
        "seconds": round(draw.seconds, 1),
        "num_seeds": draw.num_seeds,
        "standard_lr": draw.standard_lr,
        "ladders": {budget: ladder_rows(draw, budget) for budget in BUDGETS},
        "mean_z2": {budget: float((loss_z_scores(draw, budget) ** 2).mean()) for budget in BUDGETS},
        "orders": {budget: orders(draw, budget) for budget in BUDGETS},
        "rivals": {budget: rivals(draw, budget) for budget in BUDGETS},
        "small_rate": small_rate(draw),
        "candidates": draw.agreement,
    }
