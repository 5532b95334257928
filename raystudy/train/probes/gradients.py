"""Gradients of a model's mean loss on batches as one vector, and Adam's preconditioner from their statistics."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from raystudy.train.evaluation import PADDING
from raystudy.train.probes.batches import Batch

_EPS = 1e-8  # of Adam, as published (Kingma & Ba, arXiv 1412.6980)


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy over the batch's tokens, nats per token."""
    logits = model(batch.inputs)
    return functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=PADDING)


def gradient(model: nn.Module, batch: Batch) -> Tensor:
    """The gradient of the mean loss on one batch, [weights]."""
    return _flat(torch.autograd.grad(mean_loss(model, batch), list(model.parameters()), materialize_grads=True))


def mean_gradient(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """The gradient of the mean loss over all tokens of all batches, [weights]."""
    total = sum(batch.num_tokens for batch in batches)
    mean = gradient(model, batches[0]) * (batches[0].num_tokens / total)
    for batch in batches[1:]:
        mean += gradient(model, batch) * (batch.num_tokens / total)
    return mean


def preconditioner(mean_square: Tensor) -> Tensor:
    """1 / (sqrt(v) + eps) where v is the mean square of batch gradients, [weights]; 0 where v is 0.

    Adam's own, but for the exponential average, which is one over steps. A weight without any gradient is not moved
    by Adam, whatever its preconditioner is.
    """
    return torch.where(mean_square > 0, 1.0 / (mean_square.sqrt() + _EPS), 0.0)


def hessian_product(model: nn.Module, batches: Sequence[Batch]) -> Callable[[Tensor], Tensor]:
    """The product of the Hessian of the mean loss on equally large batches with a vector [weights].

    By double backward (Pearlmutter 1994), for which attention must be computed in plain operations.
    """
    parameters = list(model.parameters())

    def product(vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        with sdpa_kernel(SDPBackend.MATH):
            for batch in batches:
                loss = mean_loss(model, batch)
                first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
                second = torch.autograd.grad(_flat(first) @ vector, parameters, materialize_grads=True)
                total += _flat(second)
        return total / len(batches)

    return product


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
