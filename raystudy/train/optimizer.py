"""The optimizer of a run: AdamW or SGD, weight decay on matrices only."""

import torch

from raystudy.specs.training import AdamW, Optimizer
from raystudy.train.decoder import Decoder
from raystudy.train.parametrisation import parameter_groups


def build_optimizer(model: Decoder, spec: Optimizer, lr: float) -> torch.optim.Optimizer:
    """The optimizer over all parameters; a group's learning rate is that of the run times its `lr_factor`."""
    groups = parameter_groups(model, spec.weight_decay, spec.kind)
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    if isinstance(spec, AdamW):
        return torch.optim.AdamW(groups, lr=lr, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=spec.momentum, fused=True)
