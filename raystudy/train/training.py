"""A training in progress: model, optimizer, place in the data and the curve so far. Knows nothing of evaluation.

The steps taken and the losses logged are the same however often it stops on its way, and whether it goes on in the
process that began it or, from its `state`, in another.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.epochs import windows_read
from raystudy.specs.run import TrainRun
from raystudy.train import stop_request
from raystudy.train.branching import branch_point, start_from
from raystudy.train.decoder import Decoder
from raystudy.train.micro_batches import MicroBatches
from raystudy.train.optimizer import build_optimizer
from raystudy.train.precision import check_device, with_weights_of
from raystudy.train.process import generators, set_generators
from raystudy.train.schedule import lr_factor
from raystudy.train.stopwatch import Stopwatch
from raystudy.train.stream import SampleStream
from raystudy.train.tensors import Arrays, optimizer_arrays, put, set_optimizer, to_array

_CURVE_POINTS = 50  # most rows of a training curve
_FIXED_TOKENS = 1024  # of the batch on which the change of the logits is measured


class Training:
    """The training that `run` asks for, on `view`: built at initialisation, taken on by `advance`.

    After every step `after_step` is called, then `keep`, when the state can be kept. `problem` says what was not
    finite, if something was not.
    """

    def __init__(
        self, run: TrainRun, view: RecipeView, device: str, micro_batch_tokens: int | Literal["auto"] = "auto"
    ) -> None:
        check_device(device, run.precision)
        self._run, self._view, self._device = run, view, device
        self.model = Decoder(run.model, run.seed).to(device)
        with_weights_of(self.model, run.precision)
        self.initial_weights = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        self.stream = sample_stream(run, view)
        self.optimizer = build_optimizer(self.model, run.settings.optimizer, run.settings.lr)
        self.micro_batches = MicroBatches(micro_batch_tokens, run.settings.batch_sequences, run.model.context)
        self.watch = Stopwatch(device)
        self.curve: list[dict[str, float]] = []
        self.step = 0  # steps taken
        self.first_step = run.starts_from.step if run.starts_from is not None else 0  # taken by those it branched from
        self.after_step: Callable[[int], None] | None = None  # told how many steps have been taken
        self.keep: Callable[[], None] | None = None
        self.problem = ""
        self._began = 0.0
        self._first_loss: float | None = None
        self.seconds_before = 0.0  # what earlier processes took of this run

    def advance(self, until: int) -> bool:
        """Take steps until `until` have been taken; stops early at the first logged loss that is not finite.

        Returns:
            Whether all logged losses and all weights are finite.
        """
        self._began = time.perf_counter()
        is_finite = self._advance(until)
        self.watch.add({"training": time.perf_counter() - self._began})
        return is_finite

    def _advance(self, until: int) -> bool:
        self.problem = ""  # what is seen at the end must not depend on where it stops on its way
        while self.step < until:
            row = self._take_step()
            if is_logged(self.step, self._run.settings.steps):
                self.curve.append({key: v.item() if isinstance(v, torch.Tensor) else v for key, v in row.items()})
                self.watch.seconds()
                if not math.isfinite(self.curve[-1]["loss"]):
                    self.problem = f"the training loss was {self.curve[-1]['loss']} at step {self.step}"
                    return False
            self.step += 1
            if self.after_step is not None:
                self.after_step(self.step)
            if self.keep is not None:
                self.keep()
            else:
                stop_request.raise_if_requested()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            self.problem = f"weights were not finite after step {self.step - 1}"
        return not self.problem

    @property
    def first_loss(self) -> float:
        """The loss at initialisation on the first batch: the curve's first row, for a branch that of its parent."""
        return self.curve[0]["loss"] if self._first_loss is None else self._first_loss

    def branch_point(self) -> Arrays:
        """What a branch starts from here: weights and optimizer."""
        return branch_point(self.model, self.optimizer)

    def start_from(self, arrays: Arrays | None) -> None:
        """Begin at another run's branch point; the weights of initialisation stay what they were.

        `arrays`: None where what a checkpoint holds is put in its place.
        """
        batch = self.read_batch(0, self._run.settings.batch_sequences)
        loss = self.micro_batches.backward(self.model, batch, self._device, self._run.precision)
        self._first_loss = float(loss.item())
        self.model.zero_grad(set_to_none=True)
        if arrays is not None:
            start_from(self.model, self.optimizer, arrays)

    def _take_step(self) -> dict[str, float | torch.Tensor]:
        """One update of the weights; a row of the curve, read off the device only if it is kept."""
        settings = self._run.settings
        lr = settings.lr * lr_factor(settings.schedule, self.step, settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        self.watch.start()
        first = (self.first_step + self.step) * settings.batch_sequences
        batch = self.read_batch(first, settings.batch_sequences)
        self.watch.lap("data")
        loss = self.micro_batches.backward(self.model, batch, self._device, self._run.precision)
        self.watch.lap("forward-backward")
        largest_norm = settings.clip if settings.clip is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest_norm)
        self.optimizer.step()
        self.watch.lap("optimizer")
        return {"step": self.step, "lr": lr, "loss": loss, "gradient_norm": norm}

    def first_sequences(self) -> torch.Tensor:
        """Token ids [sequence, context] of the run's first samples: a fixed batch on which to see the model change."""
        return first_sequences(self._run, self._view, self.stream).to(self._device)

    def read_batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Token ids [count, context + 1] of the run's samples first .. first + count - 1."""
        return read_batch(self._view, self.stream, first, count, self._run.model.context)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that the steps ahead rest on, as named arrays and plain data; to be asked after a step.

        The place in the data is the step.
        """
        arrays = {f"weight/{name}": to_array(weight) for name, weight in self.model.named_parameters()}
        arrays |= {f"optimizer/{name}": array for name, array in optimizer_arrays(self.model, self.optimizer).items()}
        arrays |= {f"generator/{name}": array for name, array in generators(self._device).items()}
        seconds = self.watch.seconds()
        seconds["training"] = seconds.get("training", 0.0) + time.perf_counter() - self._began
        about = {"step": self.step, "curve": self.curve, "seconds": seconds}
        return arrays, about

    def load_state(self, arrays: Arrays, about: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, in this process or another."""
        parts: dict[str, Arrays] = {"weight": {}, "optimizer": {}, "generator": {}}
        for key, array in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = array
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                put(parts["weight"][name], weight)
        set_optimizer(self.model, self.optimizer, parts["optimizer"])
        set_generators(parts["generator"], self._device)
        self.step, self.curve = about["step"], [dict(row) for row in about["curve"]]
        self.watch.add(about["seconds"])
        self.seconds_before = about["seconds"]["training"] + about["seconds"].get("evaluation", 0.0)


def sample_stream(run: TrainRun, view: RecipeView) -> SampleStream:
    """The order in which `run` reads the windows of `view`, whatever trains it."""
    windows = [source.windows(run.model.context) for source in view.sources]
    reads = [windows_read(count, run.settings) for count in windows]
    return SampleStream([source.weight for source in view.sources], windows, run.seed, reads)


def is_logged(step: int, steps: int) -> bool:
    """Whether the curve of a run of `steps` has a row of `step` (from 0): some 50 evenly spaced, and the last."""
    return step % max(1, steps // _CURVE_POINTS) == 0 or step == steps - 1


def first_sequences(run: TrainRun, view: RecipeView, stream: SampleStream) -> torch.Tensor:
    """Token ids [sequence, context] of the run's first samples: a fixed batch on which to see the model change."""
    context = run.model.context
    count = max(1, min(run.settings.batch_sequences, _FIXED_TOKENS // context))
    return torch.from_numpy(read_batch(view, stream, 0, count, context)[:, :-1])


def read_batch(view: RecipeView, stream: SampleStream, first: int, count: int, context: int) -> npt.NDArray[np.int64]:
    """Token ids [count, context + 1] of samples first .. first + count - 1."""
    sources, windows = stream.samples(first, count)
    batch = np.empty((count, context + 1), dtype=np.int64)
    for source in np.unique(sources):
        mine = sources == source
        batch[mine] = view.sources[source].read_windows(windows[mine], context)
    return batch
