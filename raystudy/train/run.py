"""One run: a spec, a recipe's shards and validation documents in; an outcome out. No storage, no ray.

The same spec gives the same losses in a fresh process and as the tenth run of a reused one, wherever it stops on its
way to be evaluated.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.reading import Asked
from raystudy.specs.run import TrainRun
from raystudy.train.checkpoint import Checkpoints, Kept
from raystudy.train.decoder import Decoder
from raystudy.train.divergence import has_risen, not_finite
from raystudy.train.evaluation import Evaluation, ValidationDocuments, evaluate, unigram_loss
from raystudy.train.moved import cumulative_lr, moved
from raystudy.train.on_the_way import Keeping, OnTheWay, weights_of
from raystudy.train.precision import check_device, with_weights_of
from raystudy.train.process import device_name, peak_memory, reset_state
from raystudy.train.tensors import Arrays
from raystudy.train.training import Training

ValidationSets = Mapping[str, ValidationDocuments]  # by digest


@dataclass(frozen=True)
class Means:
    """What a run is made with that changes its results by rounding at most: the size of a micro-batch, checkpoints."""

    micro_batch_tokens: int | Literal["auto"] = "auto"
    checkpoints: Checkpoints | None = None


@dataclass
class Outcome:
    """What a run gives: `status` is finished or diverged; evaluations by validation digest.

    `cause`: what was seen of a run that diverged. `made`: how it was made, for its record's provenance. `seconds`: by
    phase; "total", of which "earlier" went by in processes before this one, up to the checkpoint it went on from.
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


@dataclass(frozen=True)
class Start:
    """Where a branch starts: its parent's weights and optimizer, None where it goes on from its own checkpoint, and the
    parent.

    `replayed_steps`: how many steps of the parent were taken again for it; `seconds`: what that took this process, with
    those of parents of the parent.
    """

    arrays: Arrays | None = field(repr=False)
    parent: TrainRun
    replayed_steps: int = 0
    seconds: float = 0.0


def train(
    run: TrainRun,
    view: RecipeView,
    validation: ValidationSets,
    device: str = "cpu",
    means: Means | None = None,
    *,
    asked: Asked | None = None,
    keeping: Keeping | None = None,
    start: Start | None = None,
) -> Outcome:
    """Train `run` on `view` and evaluate it before the first and after the last step, and wherever it is `asked`.

    What is evaluated or kept on the way goes to `keeping` at once. A branch begins at `start`; its losses before the
    first step are those of its parent.
    """
    means = means or Means()
    started = time.perf_counter()
    reset_state(run.seed)
    training, floors = Training(run, view, device, means.micro_batch_tokens), unigram_floors(view, validation)
    initial = _timed(training, lambda: evaluate_all(training.model, run, validation, device))
    if start is not None:
        training.start_from(start.arrays)
    way = OnTheWay(asked or Asked(), keeping, lambda model: evaluate_all(model, run, validation, device), floors)
    earlier = 0.0
    if means.checkpoints is not None:
        parts: dict[str, Kept] = {"training": training, **({"readouts": way.readouts} if way.readouts else {})}
        earlier = _go_on(training, parts, means.checkpoints)
    is_finite = way.go(training, run.settings.steps)
    final = _timed(training, lambda: evaluate_all(training.model, run, validation, device)) if is_finite else {}
    cause = training.problem or not_finite(final) or has_risen(training.curve, training.first_loss)
    if not cause:
        way.read(training, run.settings.steps, is_whole=True)
    figures = moved(training.model, training.initial_weights, initial, final, run.settings, training.first_sequences())
    if start is not None and run.starts_from is not None:
        figures["cumulative_lr"] += cumulative_lr(start.parent.settings, run.starts_from.step)
    seconds = training.watch.seconds()
    return Outcome(
        status="diverged" if cause else "finished",
        curve=training.curve,
        initial=initial,
        final={} if not_finite(final) else final,
        unigram=floors,
        moved=figures,
        data_order=training.stream.fingerprint,
        epochs=training.stream.epochs((training.first_step + run.settings.steps) * run.settings.batch_sequences),
        weights=weights_of(training.model),
        seconds={**seconds, "earlier": earlier, "total": earlier + time.perf_counter() - started},
        cause=cause,
        made={
            "micro_batch_sequences": training.micro_batches.rows,
            "tokens_per_second": training.step * run.num_tokens / run.settings.steps / seconds["training"],
            "peak_memory": peak_memory(device),
            "device_name": device_name(device),
            "resumed_from_step": means.checkpoints.resumed_from if means.checkpoints else 0,
        },
    )


def replay(
    run: TrainRun,
    view: RecipeView,
    step: int,
    device: str,
    start: Start | None = None,
    micro_batch_tokens: int | Literal["auto"] = "auto",
    checkpoints: Checkpoints | None = None,
) -> Arrays | None:
    """What a branch of `run` starts from after `step` steps, by taking them again; None where it has diverged.

    With the `checkpoints` of the branch they are taken from where an earlier process was stopped.
    """
    reset_state(run.seed)
    training = Training(run, view, device, micro_batch_tokens)
    if start is not None:
        training.start_from(start.arrays)
    if checkpoints is None:
        return training.branch_point() if training.advance(step) else None
    checkpoints.replaying = run.run_id
    _go_on(training, {"training": training}, checkpoints)
    is_finite = training.advance(step)
    checkpoints.replaying = ""
    return training.branch_point() if is_finite else None


def _timed(training: Training, evaluation: Callable[[], dict[str, Evaluation]]) -> dict[str, Evaluation]:
    began = time.perf_counter()
    found = evaluation()
    training.watch.add({"evaluation": time.perf_counter() - began})
    return found


def _go_on(training: Training, parts: dict[str, Kept], checkpoints: Checkpoints) -> float:
    """Take the training to where its checkpoint is, and let it leave checkpoints; the seconds that took it before."""
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
