"""Sharpness: the largest eigenvalue of the Hessian of the loss, plain and preconditioned as Adam sees it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raystudy.train.probes.batches import Batch
from raystudy.train.probes.gradients import gradient, hessian_product, preconditioner


@dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue of a symmetric matrix; one lies within `residual` of `value`."""

    value: float
    residual: float
    steps: int


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, iterations: int, tolerance: float
) -> Eigenvalue:
    """By at most `iterations` steps of Lanczos (1950) from `start`, until the residual is under tolerance x value.

    Without reorthogonalisation, which the largest eigenvalue does not need (Paige 1971), so that memory is that of
    three vectors.
    """
    vector, previous, norm = start / start.norm(), torch.zeros_like(start), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = product(vector) - norm * previous
        diagonal.append(float(image @ vector))
        image = image - diagonal[-1] * vector
        norm = float(image.norm())
        if not np.isfinite([*diagonal, norm]).all():
            return Eigenvalue(float("nan"), float("nan"), len(diagonal))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        found = Eigenvalue(float(values[-1]), norm * abs(float(vectors[-1, -1])), len(diagonal))
        if found.residual <= tolerance * abs(found.value) or len(diagonal) == iterations:
            return found
        beside.append(norm)
        previous, vector = vector, image / norm


def measure_sharpness(
    model: nn.Module, batches: Sequence[Batch], seed: int, iterations: int, tolerance: float
) -> tuple[Eigenvalue, Eigenvalue]:
    """Of the Hessian H of the mean loss on the batches, and of P^1/2 H P^1/2 (nats per token and unit of 1 / LR).

    P is Adam's preconditioner from the mean squares of the batch gradients; the second has the eigenvalues of P H,
    by which the stability of a step of Adam goes (Cohen et al., arXiv 2207.14484). `seed` draws the first vector.
    """
    product = hessian_product(model, batches)
    square = torch.zeros(sum(p.numel() for p in model.parameters())).to(next(model.parameters()))
    for batch in batches:
        square += gradient(model, batch) ** 2 / len(batches)
    root = preconditioner(square).sqrt()
    start = torch.randn(len(square), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(square)
    plain = largest_eigenvalue(product, start, iterations, tolerance)
    scaled = largest_eigenvalue(lambda vector: root * product(root * vector), start * (root > 0), iterations, tolerance)
    return plain, scaled
