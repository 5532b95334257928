"""A decoder's weights before the first step, as its family publishes them. Biases are zero, gains of norms one.

Standard deviations of matrices, all normal with mean zero; d is the width, L the number of layers, and "residual" are
the projections back to the residual stream:

    gpt2      0.02; residual 0.02 / sqrt(2 L) (Radford et al. 2019, section 2.3): as GPT-2 is in transformers; the code
              released with the paper has 0.01 for positions
    gpt-neox  sqrt(2 / (5 d)) (Nguyen & Salazar, arXiv 1910.05895); residual 2 / (L sqrt(d)) (Wang & Komatsuzaki's
              GPT-J): Black et al., arXiv 2204.06745, section 2.3, and Pythia's configurations
    opt       0.006; residual 0.006 / sqrt(2 L)   Zhang et al., arXiv 2205.01068, section 2.2
    llama     0.02 everywhere   `initializer_range` of Llama's configurations; no paper states one
"""

import math

import torch
from torch import nn

from raystudy.specs.model import DecoderSpec
from raystudy.train.parametrisation import is_hidden, width_ratio

_STD = {"gpt2": 0.02, "opt": 0.006, "llama": 0.02}
_RESIDUAL = ("attention_out.weight", "mlp_out.weight")


def initial_std(spec: DecoderSpec, name: str) -> float:
    """Standard deviation of the matrix called `name`. Under muP the base model's, carried to this width."""
    ratio = width_ratio(spec)
    std = _published_std(spec.init, spec.width / ratio, spec.layers, is_residual=name.endswith(_RESIDUAL))
    return std / math.sqrt(ratio) if is_hidden(name, 2) else std


def _published_std(init: str, width: float, layers: int, *, is_residual: bool) -> float:
    if init == "gpt-neox":
        return 2 / (layers * math.sqrt(width)) if is_residual else math.sqrt(2 / (5 * width))
    return _STD[init] / math.sqrt(2 * layers) if is_residual and init != "llama" else _STD[init]


@torch.no_grad()
def initialise(model: nn.Module, spec: DecoderSpec, generator: torch.Generator) -> None:
    """Fill all parameters of `model`, in the order of their names in it."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.normal_(0.0, initial_std(spec, name), generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.fill_(1.0)
