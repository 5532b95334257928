"""One run: a spec, a recipe's shards and validation documents in; an outcome out. No storage, no ray.

The same spec gives the same losses in a fresh process and as the tenth run of a reused one, wherever it stops on its
way to be evaluated.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun
from raystudy.train.branching import Arrays
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import Evaluation, ValidationDocuments, evaluate, unigram_loss
from raystudy.train.moved import cumulative_lr, moved
from raystudy.train.process import reset_state
from raystudy.train.readouts import Readouts
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


@dataclass(frozen=True)
class Read:
    """One reading as it was made on the way: its weights, and its evaluations by digest; none where it had diverged."""

    reading: Reading
    weights: dict[str, npt.NDArray[Any]] = field(repr=False)
    evaluations: dict[str, Evaluation]
    unigram: dict[str, float]


@dataclass(frozen=True)
class Start:
    """Where a branch starts: its parent's weights and optimizer, and the parent.

    `replayed_steps`: how many steps of the parent were taken again for it.
    """

    arrays: Arrays = field(repr=False)
    parent: TrainRun
    replayed_steps: int = 0


@dataclass(frozen=True)
class Keeping:
    """What is done with what comes up on the way: readings, and what branches start from, by step."""

    read: Callable[[Read], object]
    branch_point: Callable[[int, Arrays], object]


def train(
    run: TrainRun,
    view: RecipeView,
    validation: ValidationSets,
    device: str = "cpu",
    *,
    asked: Asked | None = None,
    keeping: Keeping | None = None,
    start: Start | None = None,
) -> Outcome:
    """Train `run` on `view` and evaluate it before the first and after the last step, and wherever it is `asked`.

    What is evaluated or kept on the way goes to `keeping` at once. A branch begins at `start`; its losses before the
    first step are those of its parent.
    """
    started = time.perf_counter()
    reset_state(run.seed)
    training = Training(run, view, device)
    initial = evaluate_all(training.model, run, validation, device)
    if start is not None:
        training.start_from(start.arrays)
    on_the_way = _OnTheWay(run, view, validation, device, asked or Asked(), keeping)
    on_the_way.seconds = time.perf_counter() - started
    is_finite = on_the_way.go(training)
    trained = time.perf_counter()
    final = evaluate_all(training.model, run, validation, device) if is_finite else {}
    status = "finished" if is_finite and not has_risen(training.curve) else "diverged"
    if status == "finished":
        on_the_way.read(training, run.settings.steps, is_whole=True)
    ended = time.perf_counter()
    figures = moved(training.model, training.initial_weights, initial, final, run.settings)
    if start is not None and run.starts_from is not None:
        figures["cumulative_lr"] += cumulative_lr(start.parent.settings, run.starts_from.step)
    return Outcome(
        status=status,
        curve=training.curve,
        initial=initial,
        final=final,
        unigram=unigram_floors(view, validation),
        moved=figures,
        data_order=training.stream.fingerprint,
        epochs=training.stream.epochs((training.first_step + run.settings.steps) * run.settings.batch_sequences),
        weights={name: parameter.detach().cpu().numpy() for name, parameter in training.model.named_parameters()},
        seconds={
            "evaluation": (evaluation := on_the_way.seconds + ended - trained),
            "training": ended - started - evaluation,
            "total": ended - started,
        },
    )


class _OnTheWay:
    """The stops of one run, in order of step. `seconds`: spent on evaluation so far."""

    def __init__(
        self,
        run: TrainRun,
        view: RecipeView,
        validation: ValidationSets,
        device: str,
        asked: Asked,
        keeping: Keeping | None,
    ) -> None:
        self._run, self._view, self._validation, self._device = run, view, validation, device
        self._asked, self._keeping = asked, keeping
        self.readouts = Readouts(asked.readings)
        self.seconds = 0.0

    def go(self, training: Training) -> bool:
        """Train to the end, with a stop wherever something is asked; whether the last weights are finite."""
        steps, weights = self._run.settings.steps, dict(training.model.named_parameters())
        if self.readouts:
            training.after_step = lambda step: self.readouts.update(step, weights)
        stops = {*(reading.step for reading in self._asked.readings), *self._asked.checkpoints, steps}
        has_ended = is_finite = False
        for stop in sorted(stop for stop in stops if stop <= steps):
            if not has_ended:
                is_finite = training.advance(stop)
                has_ended = training.step < stop  # a logged loss is not finite: no later weights are
            if stop < steps:
                self.read(training, stop, is_whole=is_finite and not has_risen(training.curve))
            if is_finite and stop in self._asked.checkpoints and self._keeping is not None:
                self._keeping.branch_point(stop, training.branch_point())
        return is_finite

    def read(self, training: Training, step: int, *, is_whole: bool) -> None:
        """Make the readings of one step; those of weights that are not `is_whole` have no evaluation."""
        started = time.perf_counter()
        for reading in self._asked.readings:
            if reading.step != step:
                continue
            if not is_whole:
                self._keep(Read(reading, {}, {}, {}))
                continue
            model = training.model
            if reading.readout is not None:
                model = copy.deepcopy(training.model)
                averaged = self.readouts.take(reading)
                with torch.no_grad():
                    for name, weight in model.named_parameters():
                        weight.copy_(averaged[name])
            evaluations = evaluate_all(model, self._run, self._validation, self._device)
            weights = {name: weight.detach().cpu().numpy().copy() for name, weight in model.named_parameters()}
            self._keep(Read(reading, weights, evaluations, unigram_floors(self._view, self._validation)))
        self.seconds += time.perf_counter() - started

    def _keep(self, read: Read) -> None:
        if self._keeping is not None:
            self._keeping.read(read)


def replay(run: TrainRun, view: RecipeView, step: int, device: str, start: Start | None = None) -> Arrays | None:
    """What a branch of `run` starts from after `step` steps, by taking them again; None where it has diverged."""
    reset_state(run.seed)
    training = Training(run, view, device)
    if start is not None:
        training.start_from(start.arrays)
    return training.branch_point() if training.advance(step) else None


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


def has_risen(curve: list[dict[str, float]]) -> bool:
    """Whether training stands above where it began: from the curve alone, as validation sets are not the run's."""
    last = [row["loss"] for row in curve[-_LAST_ROWS:]]
    return sum(last) / len(last) > _DIVERGED_RATIO * curve[0]["loss"]
