"""A training in progress: model, optimizer, place in the data and the curve so far. Knows nothing of evaluation.

The steps taken and the losses logged are the same however often it stops on its way.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.epochs import windows_read
from raystudy.specs.run import TrainRun
from raystudy.train.decoder import Decoder
from raystudy.train.optimizer import build_optimizer
from raystudy.train.schedule import lr_factor
from raystudy.train.stream import SampleStream

_CURVE_POINTS = 50  # most rows of a training curve


class Training:
    """The training that `run` asks for, on `view`: built at initialisation, taken on by `advance`."""

    def __init__(self, run: TrainRun, view: RecipeView, device: str) -> None:
        self._run, self._view, self._device = run, view, device
        self.model = Decoder(run.model, run.seed).to(device)
        self.initial_weights = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        windows = [source.windows(run.model.context) for source in view.sources]
        reads = [windows_read(count, run.settings) for count in windows]
        self.stream = SampleStream([source.weight for source in view.sources], windows, run.seed, reads)
        self._optimizer = build_optimizer(self.model, run.settings.optimizer, run.settings.lr)
        self.curve: list[dict[str, float]] = []
        self.step = 0  # steps taken

    def advance(self, until: int) -> bool:
        """Take steps until `until` have been taken; stops early at the first logged loss that is not finite.

        Returns:
            Whether all logged losses and all weights are finite.
        """
        every = max(1, self._run.settings.steps // _CURVE_POINTS)
        while self.step < until:
            row = self._take_step()
            if self.step % every == 0 or self.step == self._run.settings.steps - 1:
                self.curve.append({key: v.item() if isinstance(v, torch.Tensor) else v for key, v in row.items()})
                if not math.isfinite(self.curve[-1]["loss"]):
                    return False
            self.step += 1
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())

    def _take_step(self) -> dict[str, float | torch.Tensor]:
        """One update of the weights; a row of the curve, read off the device only if it is kept."""
        settings, context = self._run.settings, self._run.model.context
        lr = settings.lr * lr_factor(settings.schedule, self.step, settings.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        first = self.step * settings.batch_sequences
        batch = read_batch(self._view, self.stream, first, settings.batch_sequences, context)
        tokens = torch.from_numpy(batch).to(self._device)
        logits = self.model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        largest_norm = settings.clip if settings.clip is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest_norm)
        self._optimizer.step()
        return {"step": self.step, "lr": lr, "loss": loss.detach(), "gradient_norm": norm}


def read_batch(view: RecipeView, stream: SampleStream, first: int, count: int, context: int) -> npt.NDArray[np.int64]:
    """Token ids [count, context + 1] of samples first .. first + count - 1."""
    sources, windows = stream.samples(first, count)
    batch = np.empty((count, context + 1), dtype=np.int64)
    for source in np.unique(sources):
        mine = sources == source
        batch[mine] = view.sources[source].read_windows(windows[mine], context)
    return batch
