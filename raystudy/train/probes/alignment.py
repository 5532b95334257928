"""Gradient alignment of a recipe with validation sets: does a small step on the recipe lower their loss?

To first order a step of learning rate e along the recipe's gradient r lowers the loss of a validation set by e <r, g>,
where g is that set's gradient; a step of Adam by e <P r, g>, P its preconditioner.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raystudy.train.probes.batches import Batch
from raystudy.train.probes.gradients import gradient, mean_gradient, preconditioner


@dataclass(frozen=True)
class Alignment:
    """Inner product (nats per token and unit of LR) and cosine, each with its standard error over recipe batches."""

    inner: float
    inner_error: float
    cosine: float
    cosine_error: float


def measure_alignment(
    model: nn.Module, batches: Sequence[Batch], held: Mapping[str, Sequence[Batch]]
) -> dict[str, tuple[Alignment, Alignment]]:
    """Plain and preconditioned alignment of the recipe's `batches` with each validation set, by its digest.

    The recipe's gradient is the mean over its batches; a set's is that of all its windows, taken as fixed. The
    preconditioner is that of the mean squares of the recipe's batch gradients. Preconditioned cosines and norms are
    those of the inner product <a, P b>. Standard errors: standard deviation over batches over the root of their
    number; a cosine's takes the norms as known.
    """
    targets = torch.stack([mean_gradient(model, own) for own in held.values()])
    mean, square = torch.zeros_like(targets[0]), torch.zeros_like(targets[0])
    plain, scaled = [], []
    for batch in batches:
        found = gradient(model, batch)
        mean += found / len(batches)
        square += found**2 / len(batches)
        plain.append(targets @ found)
    scale = preconditioner(square)
    scaled_targets = targets * scale
    for batch in batches:  # again, since the preconditioner rests on all of them
        scaled.append(scaled_targets @ gradient(model, batch))
    norms = (targets.norm(dim=1) * mean.norm()).tolist()
    scaled_norms = ((targets * scaled_targets).sum(dim=1).sqrt() * (mean**2 * scale).sum().sqrt()).tolist()
    first, second = _alignments(plain, norms), _alignments(scaled, scaled_norms)
    return dict(zip(held, zip(first, second, strict=True), strict=True))


def _alignments(products: Sequence[Tensor], norms: Sequence[float]) -> list[Alignment]:
    """From inner products [batch][set] and products of norms [set]."""
    values = np.stack([row.double().cpu().numpy() for row in products])
    means, errors = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))
    rows = zip(means.tolist(), errors.tolist(), norms, strict=True)
    return [Alignment(m, e, m / n if n else 0.0, e / n if n else 0.0) for m, e, n in rows]
