"""The fixed batches that probes read: of a recipe, and of a validation set. Knows nothing of models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.run import DecoderProbe
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.stream import SampleStream
from raystudy.train.training import read_batch

PADDING = -100
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
    windows = [source.windows(context) for source in view.sources]
    stream = SampleStream(weights, windows, probe.seed + _PROBE_STREAM)
    read = (read_batch(view, stream, number * count, count, context) for number in range(probe.batches))
    tokens = [torch.from_numpy(batch).to(device) for batch in read]
    return [Batch(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def validation_batches(probe: DecoderProbe, documents: ValidationDocuments, device: str) -> list[Batch]:
    """Windows of the documents as an evaluation cuts them: all, or evenly spread ones, as many as the recipe's."""
    context, most = probe.model.context, probe.batches * probe.batch_sequences
    places = [
        (tokens, start) for tokens in documents.tokens for start in range(0, len(tokens) - 1, context)
    ]  # a window each
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)).tolist()
    pieces = [torch.from_numpy(places[i][0][places[i][1] :][: context + 1].astype(np.int64)) for i in chosen]
    return [
        Batch(_padded([piece[:-1] for piece in group], context, 0).to(device), _targets(group, context).to(device))
        for group in (pieces[i : i + probe.batch_sequences] for i in range(0, len(pieces), probe.batch_sequences))
    ]


def _targets(pieces: Sequence[Tensor], context: int) -> Tensor:
    return _padded([piece[1:] for piece in pieces], context, PADDING)


def _padded(rows: Sequence[Tensor], length: int, value: int) -> Tensor:
    return torch.stack([functional.pad(row, (0, length - len(row)), value=value) for row in rows])
