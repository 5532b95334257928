"""The optimizer of a run: AdamW or SGD, weight decay on matrices only."""

import torch
from torch import nn

from raystudy.specs.training import AdamW, Optimizer


def build_optimizer(model: nn.Module, spec: Optimizer, lr: float) -> torch.optim.Optimizer:
    """The optimizer over all parameters; those with fewer than two axes (biases, norms) do not decay."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if isinstance(spec, AdamW):
        return torch.optim.AdamW(groups, lr=lr, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=spec.momentum, fused=True)
