"""One run: a spec, a recipe's shards and validation documents in; an outcome out. No storage, no ray.

The same spec gives the same losses in a fresh process and as the tenth run of a reused one.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.run import TrainRun
from raystudy.train.checkpoint import Checkpoints
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import Evaluation, ValidationDocuments, evaluate, unigram_loss
from raystudy.train.moved import moved
from raystudy.train.precision import check_device, with_weights_of
from raystudy.train.process import device_name, peak_memory, reset_state
from raystudy.train.training import Training

_DIVERGED_RATIO = 1.05  # training losses that end above this times the first one are no training
_LAST_ROWS = 3  # of the curve, averaged: single batches are noisy

ValidationSets = Mapping[str, ValidationDocuments]  # by digest


@dataclass(frozen=True)
class Means:
    """What a run is made with that changes its results by rounding at most: the size of a micro-batch, checkpoints."""

    micro_batch_tokens: int | Literal["auto"] = "auto"
    checkpoints: Checkpoints | None = None


@dataclass
class Outcome:
    """What a run gives: `status` is finished or diverged; evaluations by validation digest.

    `cause`: what was seen of a run that diverged. `made`: how it was made, for its record's provenance.
    """

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
    cause: str = ""
    made: dict[str, Any] = field(default_factory=dict)


def train(
    run: TrainRun, view: RecipeView, validation: ValidationSets, device: str = "cpu", means: Means | None = None
) -> Outcome:
    """Train `run` on `view` and evaluate it before the first and after the last step."""
    means = means or Means()
    started = time.perf_counter()
    reset_state(run.seed)
    training = Training(run, view, device, means.micro_batch_tokens)
    initial = _timed(training, lambda: evaluate_all(training.model, run, validation, device))
    earlier = _go_on(training, means.checkpoints)
    is_finite = training.advance(run.settings.steps)
    final = _timed(training, lambda: evaluate_all(training.model, run, validation, device)) if is_finite else {}
    cause = training.problem or _not_finite(final) or _has_risen(training.curve)
    seconds = training.watch.seconds()
    return Outcome(
        status="diverged" if cause else "finished",
        curve=training.curve,
        initial=initial,
        final={} if _not_finite(final) else final,
        unigram=unigram_floors(view, validation),
        moved=moved(training.model, training.initial_weights, initial, final, run.settings, training.first_sequences()),
        data_order=training.stream.fingerprint,
        epochs=training.stream.epochs(run.settings.steps * run.settings.batch_sequences),
        weights={name: p.detach().cpu().float().numpy() for name, p in training.model.named_parameters()},
        seconds={**seconds, "total": earlier + time.perf_counter() - started},
        cause=cause,
        made={
            "micro_batch_sequences": training.micro_batches.rows,
            "tokens_per_second": training.step * run.num_tokens / run.settings.steps / seconds["training"],
            "peak_memory": peak_memory(device),
            "device_name": device_name(device),
            "resumed_from_step": means.checkpoints.resumed_from if means.checkpoints else 0,
        },
    )


def _timed(training: Training, evaluation: Callable[[], dict[str, Evaluation]]) -> dict[str, Evaluation]:
    began = time.perf_counter()
    found = evaluation()
    training.watch.add({"evaluation": time.perf_counter() - began})
    return found


def _go_on(training: Training, checkpoints: Checkpoints | None) -> float:
    """Take the training to where its checkpoint is, and let it leave checkpoints; the seconds that took it before."""
    if checkpoints is None:
        return 0.0
    parts = {"training": training}
    checkpoints.restore(parts)

    def keep() -> None:
        training.watch.add({"checkpoint": checkpoints.keep_if_due(training.step, parts)})

    training.keep = keep
    return training.seconds_before


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
    check_device(device)
    model = Decoder(run.model, run.seed)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    with_weights_of(model, run.precision)
    return model.to(device)


def _not_finite(final: Mapping[str, Evaluation]) -> str:
    """Which validation loss is not finite, in words; empty where all are."""
    losses = {digest: evaluation.nats_per_token for digest, evaluation in final.items()}
    found = [f"{loss} on validation set {digest}" for digest, loss in losses.items() if not math.isfinite(loss)]
    return f"the final loss was {', '.join(found)}" if found else ""


def _has_risen(curve: list[dict[str, float]]) -> str:
    """How training ended above where it began, in words; empty where it did not.

    From the curve alone, as validation sets are not the run's.
    """
    last = [row["loss"] for row in curve[-_LAST_ROWS:]]
    mean, first = sum(last) / len(last), curve[0]["loss"]
    return f"the training loss rose from {first:.4g} to {mean:.4g}" if mean > _DIVERGED_RATIO * first else ""
