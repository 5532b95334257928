"""Read-outs besides the last weights, worked out while a run trains: averages of its weights, never a copy per step.

Each is a running weighted mean, held in FP32: in bf16 small changes would be rounded away. Its state is all that a
resumed run needs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raystudy.specs.base import digest
from raystudy.specs.reading import Average, Ema, Reading
from raystudy.train.tensors import Arrays, to_array, to_tensor

Weights = Mapping[str, Tensor]


@dataclass
class _Mean:
    """A weighted mean of weights: `total` is the weight of all that it has taken in."""

    total: float = 0.0
    values: dict[str, Tensor] = field(default_factory=dict)

    def take(self, weights: Weights, kept: float) -> None:
        """Take in `weights` with weight 1, after what was there has shrunk to the share `kept`."""
        self.total = kept * self.total + 1.0
        for name, weight in weights.items():
            now, before = weight.detach().float(), self.values.get(name)
            if before is None:
                self.values[name] = now.clone()
            else:
                self.values[name] = before.to(now.device).lerp_(now, 1.0 / self.total)


class Readouts:
    """The averaged readings of one run, brought up to date after each of its steps."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = {_key(reading): reading for reading in readings if reading.readout is not None}
        self._taken = {
            key: frozenset(reading.readout.steps(reading.step))
            for key, reading in self._readings.items()
            if isinstance(reading.readout, Average)
        }
        self._means: dict[str, _Mean] = {}

    def __bool__(self) -> bool:
        return bool(self._readings)

    def update(self, step: int, weights: Weights) -> None:
        """Take in the weights after `step` steps, wherever a reading asks for them."""
        with torch.no_grad():
            for key, reading in self._readings.items():
                if step > reading.step or step not in self._taken.get(key, (step,)):
                    continue
                kept = 1.0
                if isinstance(reading.readout, Ema):
                    kept = 0.5 ** (1.0 / reading.readout.steps_to_half(reading.step))
                self._means.setdefault(key, _Mean()).take(weights, kept)

    def take(self, reading: Reading) -> dict[str, Tensor]:
        """The weights of a reading whose step has come; its memory is given back."""
        return self._means.pop(_key(reading)).values

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that has been taken in: the means as arrays, and the weight of each as plain data."""
        arrays = {f"{key}/{name}": to_array(v) for key, mean in self._means.items() for name, v in mean.values.items()}
        return arrays, {key: mean.total for key, mean in self._means.items()}

    def load_state(self, arrays: Arrays, about: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same readings, in this process or another."""
        self._means = {key: _Mean(float(total)) for key, total in about.items()}
        for place, array in arrays.items():
            key, _, name = place.partition("/")
            self._means[key].values[name] = to_tensor(array)


def _key(reading: Reading) -> str:
    return digest(reading)
