"""The optimizer of a run: AdamW with weight decay on matrices only."""

import torch

from raystudy.specs.training import AdamW
from raystudy.train.decoder import Decoder
from raystudy.train.parametrisation import parameter_groups


def build_optimizer(model: Decoder, spec: AdamW, lr: float) -> torch.optim.Optimizer:
    """AdamW over all parameters; a group's learning rate is that of the run times its `lr_factor`."""
    groups = parameter_groups(model, spec.weight_decay, "adamw")
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    return torch.optim.AdamW(groups, lr=lr, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)
