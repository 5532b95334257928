"""One run: a spec, a recipe's shards and validation documents in; an outcome out. No storage, no ray.

The same spec gives the same losses in a fresh process and as the tenth run of a reused one.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.run import TrainRun
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import Evaluation, ValidationDocuments, evaluate, unigram_loss
from raystudy.train.optimizer import build_optimizer
from raystudy.train.process import reset_state
from raystudy.train.schedule import lr_factor
from raystudy.train.stream import SampleStream

_CURVE_POINTS = 50  # most rows of a training curve
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
    model = Decoder(run.model, run.seed).to(device)
    initial_weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    initial = evaluate_all(model, run, validation, device)
    evaluated = time.perf_counter()
    stream = SampleStream(
        [source.weight for source in view.sources],
        [source.windows(run.model.context) for source in view.sources],
        run.seed,
    )
    curve, is_finite = _optimise(model, run, view, stream, device)
    trained = time.perf_counter()
    final = evaluate_all(model, run, validation, device) if is_finite else {}
    ended = time.perf_counter()
    return Outcome(
        status="finished" if is_finite and not _has_risen(curve) else "diverged",
        curve=curve,
        initial=initial,
        final=final,
        unigram=unigram_floors(view, validation),
        moved=_moved(model, initial_weights, initial, final, curve, run),
        data_order=stream.fingerprint,
        epochs=stream.epochs(run.settings.steps * run.settings.batch_sequences),
        weights={name: parameter.detach().cpu().numpy() for name, parameter in model.named_parameters()},
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


def _optimise(
    model: Decoder, run: TrainRun, view: RecipeView, stream: SampleStream, device: str
) -> tuple[list[dict[str, float]], bool]:
    """All steps; stops at the first logged step with a loss that is not finite."""
    settings, context = run.settings, run.model.context
    optimizer = build_optimizer(model, settings.optimizer, settings.lr)
    every = max(1, settings.steps // _CURVE_POINTS)
    largest_norm = settings.clip if settings.clip is not None else math.inf
    curve: list[dict[str, float]] = []
    for step in range(settings.steps):
        lr = settings.lr * lr_factor(settings.schedule, step, settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = read_batch(view, stream, step * settings.batch_sequences, settings.batch_sequences, context)
        tokens = torch.from_numpy(batch).to(device)
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest_norm)
        optimizer.step()
        if step % every == 0 or step == settings.steps - 1:
            row = {"step": step, "lr": lr, "loss": loss.item(), "gradient_norm": norm.item()}
            curve.append(row)
            if not math.isfinite(row["loss"]):
                return curve, False
    return curve, all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def read_batch(view: RecipeView, stream: SampleStream, first: int, count: int, context: int) -> npt.NDArray[np.int64]:
    """Token ids [count, context + 1] of samples first .. first + count - 1."""
    sources, windows = stream.samples(first, count)
    batch = np.empty((count, context + 1), dtype=np.int64)
    for source in np.unique(sources):
        mine = sources == source
        batch[mine] = view.sources[source].read_windows(windows[mine], context)
    return batch


def _has_risen(curve: list[dict[str, float]]) -> bool:
    """Whether training ended above where it began: from the curve alone, as validation sets are not the run's."""
    last = [row["loss"] for row in curve[-_LAST_ROWS:]]
    return sum(last) / len(last) > _DIVERGED_RATIO * curve[0]["loss"]


def _moved(
    model: Decoder,
    initial_weights: Mapping[str, torch.Tensor],
    initial: Mapping[str, Evaluation],
    final: Mapping[str, Evaluation],
    curve: list[dict[str, float]],
    run: TrainRun,
) -> dict[str, float]:
    """How far the run went: relative loss drop, cumulative learning rate, share of weights changed."""
    total = sum(weight.numel() for weight in initial_weights.values())
    changed = sum(int((p != initial_weights[name]).sum()) for name, p in model.named_parameters())
    settings = run.settings
    lrs = (settings.lr * lr_factor(settings.schedule, step, settings.steps) for step in range(settings.steps))
    moved = {"cumulative_lr": sum(lrs), "share_of_weights_changed": changed / total}
    if final and curve:
        before = sum(evaluation.nats_per_token for evaluation in initial.values())
        after = sum(evaluation.nats_per_token for evaluation in final.values())
        if math.isfinite(after):
            moved["relative_loss_drop"] = (before - after) / before
    return moved
