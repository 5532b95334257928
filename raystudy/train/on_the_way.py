"""What is made of a run on its way: evaluations at steps and of read-outs, and what branches start from.

None of it changes the run. A run that goes on from a checkpoint makes what comes after, and what was due at its step.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch

from raystudy.specs.reading import Asked, Reading
from raystudy.train.decoder import Decoder
from raystudy.train.divergence import has_risen, not_finite
from raystudy.train.evaluation import Evaluation
from raystudy.train.readouts import Readouts
from raystudy.train.tensors import Arrays
from raystudy.train.training import Training


@dataclass(frozen=True)
class Read:
    """One reading as it was made on the way: its weights, and its evaluations by digest; none where it had diverged."""

    reading: Reading
    weights: dict[str, npt.NDArray[Any]] = field(repr=False)
    evaluations: dict[str, Evaluation]
    unigram: Mapping[str, float]


@dataclass(frozen=True)
class Keeping:
    """What is done with what comes up on the way: readings, and what branches start from, by step."""

    read: Callable[[Read], object]
    branch_point: Callable[[int, Arrays], object]


def weights_of(model: Decoder) -> dict[str, npt.NDArray[Any]]:
    """A copy of the weights as FP32 arrays."""
    return {name: weight.detach().cpu().float().numpy().copy() for name, weight in model.named_parameters()}


def stops_of(asked: Asked, begun: int, end: int) -> list[int]:
    """The steps before `end` after which something is asked for, in order, of a run that has taken `begun` steps.

    A checkpoint is written before what is due at its step: what is below `begun` has been made.
    """
    stops = {*(reading.step for reading in asked.readings), *asked.checkpoints}
    return sorted(stop for stop in stops if begun <= stop < end)


class OnTheWay:
    """The stops of one run, in order of step.

    `evaluate` gives a model's evaluations by digest; `unigram` the floors, by digest.
    """

    def __init__(
        self,
        asked: Asked,
        keeping: Keeping | None,
        evaluate: Callable[[Decoder], dict[str, Evaluation]],
        unigram: Mapping[str, float],
    ) -> None:
        self._asked, self._keeping = asked, keeping
        self._evaluate, self._unigram = evaluate, unigram
        self.readouts = Readouts(asked.readings)

    def go(self, training: Training, steps: int) -> bool:
        """Train to the end, with a stop wherever something is asked; whether all that was seen is finite."""
        weights = dict(training.model.named_parameters())
        if self.readouts:
            training.after_step = lambda step: self.readouts.update(step, weights)
        has_ended = is_finite = False
        for stop in (*stops_of(self._asked, training.step, steps), steps):
            if not has_ended:
                is_finite = training.advance(stop)
                has_ended = training.step < stop  # a logged loss is not finite: no later weights are
            if stop < steps:
                self.read(training, stop, is_whole=is_finite and not has_risen(training.curve, training.first_loss))
            if is_finite and stop in self._asked.checkpoints and self._keeping is not None:
                self._keeping.branch_point(stop, training.branch_point())
        return is_finite

    def read(self, training: Training, step: int, *, is_whole: bool) -> None:
        """Make the readings of one step; those of weights that are not `is_whole` have no evaluation."""
        began = time.perf_counter()
        for reading in self._asked.readings:
            if reading.step == step:
                read = self._read(training, reading) if is_whole else None
                if self._keeping is not None:
                    self._keeping.read(read or Read(reading, {}, {}, {}))
        training.watch.add({"evaluation": time.perf_counter() - began})

    def _read(self, training: Training, reading: Reading) -> Read | None:
        """None where a loss is not finite."""
        model = training.model
        if reading.readout is not None:
            model = copy.deepcopy(training.model)
            averaged = self.readouts.take(reading)
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    weight.copy_(averaged[name])
        evaluations = self._evaluate(model)
        return None if not_finite(evaluations) else Read(reading, weights_of(model), evaluations, self._unigram)
