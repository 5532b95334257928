"""The fixed batches that probes read: of a recipe, and of a validation set. Knows nothing of models."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.run import DecoderProbe
from raystudy.train.evaluation import PADDING, ValidationDocuments, windows
from raystudy.train.stream import SampleStream
from raystudy.train.training import read_batch

_PROBE_STREAM = 2**31  # above every run's seed: probes read an order of samples that no training begins with


@dataclass(frozen=True)
class Batch:
    """Inputs and targets, int64 [sequence, context]; targets that are PADDING do not count."""

    inputs: Tensor
    targets: Tensor

    @property
    def num_tokens(self) -> int:
        """Targets that count."""
        return int((self.targets != PADDING).sum())


def recipe_batches(probe: DecoderProbe, view: RecipeView, device: str) -> list[Batch]:
    """The probe's batches of the recipe: the first samples of a stream in the mixture's proportions."""
    context, count = probe.model.context, probe.batch_sequences
    weights = [source.weight for source in view.sources]
    num_windows = [source.windows(context) for source in view.sources]
    stream = SampleStream(weights, num_windows, probe.seed + _PROBE_STREAM)
    read = (read_batch(view, stream, number * count, count, context) for number in range(probe.batches))
    tokens = [torch.from_numpy(batch).to(device) for batch in read]
    return [Batch(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def validation_batches(probe: DecoderProbe, documents: ValidationDocuments, device: str) -> list[Batch]:
    """Windows of the documents as an evaluation cuts them: all, or evenly spread ones, as many as the recipe's."""
    inputs, targets, _ = windows(documents, probe.model.context)
    most = min(probe.batches * probe.batch_sequences, len(inputs))
    chosen = np.unique(np.linspace(0, len(inputs) - 1, most).round().astype(np.int64))
    groups = torch.split(torch.from_numpy(chosen), probe.batch_sequences)
    return [Batch(inputs[group].to(device), targets[group].to(device)) for group in groups]
