"""One run: a spec, a recipe's shards and validation documents in; an outcome out. No storage, no ray.

The same spec gives the same losses in a fresh process and as the tenth run of a reused one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.run import TrainRun
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import Evaluation, ValidationDocuments, evaluate, unigram_loss
from raystudy.train.moved import moved
from raystudy.train.process import reset_state
from raystudy.train.training import Training

_DIVERGED_RATIO = 1.05  # training losses that end above this times the first one are no training
_LAST_ROWS = 3  # of the curve, averaged: single batches are noisy

ValidationSets = Mapping[str, ValidationDocuments]  # by digest


@dataclass
class Outcome:
    """What a run gives: `status` is finished or diverged; evaluations by validation digest."""

    status: str
    curve: list[dict[str, float]]
    initial: dict[str, Evaluation]
    final: dict[str, Evaluation]
    unigram: dict[str, float]
    moved: dict[str, float]
    epochs: list[float]
    data_order: str
    weights: dict[str, npt.NDArray[Any]] = field(repr=False)
    seconds: dict[str, float] = field(default_factory=dict)


def train(run: TrainRun, view: RecipeView, validation: ValidationSets, device: str = "cpu") -> Outcome:
    """Train `run` on `view` and evaluate it before the first and after the last step."""
    started = time.perf_counter()
    reset_state(run.seed)
    training = Training(run, view, device)
    initial = evaluate_all(training.model, run, validation, device)
    evaluated = time.perf_counter()
    is_finite = training.advance(run.settings.steps)
    trained = time.perf_counter()
    final = evaluate_all(training.model, run, validation, device) if is_finite else {}
    ended = time.perf_counter()
    return Outcome(
        status="finished" if is_finite and not _has_risen(training.curve) else "diverged",
        curve=training.curve,
        initial=initial,
        final=final,
        unigram=unigram_floors(view, validation),
        moved=moved(training.model, training.initial_weights, initial, final, run.settings),
        data_order=training.stream.fingerprint,
        epochs=training.stream.epochs(run.settings.steps * run.settings.batch_sequences),
        weights={name: parameter.detach().cpu().numpy() for name, parameter in training.model.named_parameters()},
        seconds={
            "evaluation": evaluated - started + ended - trained,
            "training": trained - evaluated,
            "total": ended - started,
        },
    )


def evaluate_all(model: Decoder, run: TrainRun, validation: ValidationSets, device: str) -> dict[str, Evaluation]:
    """The model's loss on every validation set, by digest."""
    return {digest: evaluate(model, documents, run.model.context, device) for digest, documents in validation.items()}


def unigram_floors(view: RecipeView, validation: ValidationSets) -> dict[str, float]:
    """The unigram loss of the recipe on every validation set, by digest; nats per token."""
    weights = [source.weight for source in view.sources]
    counts = [source.unigram_counts for source in view.sources]
    return {digest: unigram_loss(documents, weights, counts) for digest, documents in validation.items()}


def load_weights(run: TrainRun, arrays: Mapping[str, npt.NDArray[Any]], device: str = "cpu") -> Decoder:
    """The run's model with kept weights."""
    model = Decoder(run.model, run.seed)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return model.to(device)


def _has_risen(curve: list[dict[str, float]]) -> bool:
    """Whether training ended above where it began: from the curve alone, as validation sets are not the run's."""
    last = [row["loss"] for row in curve[-_LAST_ROWS:]]
    return sum(last) / len(last) > _DIVERGED_RATIO * curve[0]["loss"]
