"""How initialisation, learning rates and multipliers depend on width: standard, or muP. Holds no state.

muP is that of Yang et al., arXiv 2203.03466, table 8, which also fits a tied head: at `mup_base_width` it is the
standard parametrisation, and the best learning rate there stays the best as width grows. With m = width / base width:

    parameters                          initial std   Adam's rate   SGD's rate   multiplier
    embeddings, biases, gains of norms  as at base    1             m            1
    head                                as at base    1             m            1 / m
    other matrices                      / sqrt(m)     1 / m         1            1

Products of queries and keys are divided by the head's width where that grows with the model's (definition 4.1 there).
"""

import math
from typing import TYPE_CHECKING, Any, Literal

from raystudy.specs.model import DecoderSpec

if TYPE_CHECKING:
    from raystudy.train.decoder import Decoder

OptimizerKind = Literal["adamw", "sgd"]

_OUTER = ("tokens.weight", "positions.weight", "head.weight")  # one of their two axes does not grow with width
_HEAD_GAINS = ("query_norm.weight", "key_norm.weight")  # as long as a head is wide


def width_ratio(spec: DecoderSpec) -> float:
    """Width over the base width; 1 in the standard parametrisation."""
    return 1.0 if spec.mup_base_width is None else spec.width / spec.mup_base_width


def _head_ratio(spec: DecoderSpec) -> float:
    """A head's width over that of the base model."""
    if spec.mup_base_width is None or spec.mup_base_heads is None:
        return 1.0
    return spec.head_width / (spec.mup_base_width // spec.mup_base_heads)


def attention_scale(spec: DecoderSpec) -> float | None:
    """The factor of products of queries and keys; None is 1 / sqrt(head width)."""
    ratio = _head_ratio(spec)
    return None if ratio == 1.0 else 1.0 / math.sqrt(spec.head_width * ratio)


def output_multiplier(spec: DecoderSpec) -> float:
    """The factor of the logits."""
    return 1.0 / width_ratio(spec)


def is_hidden(name: str, num_axes: int) -> bool:
    """Whether both axes of the parameter called `name` grow with the model's width."""
    return num_axes == 2 and name not in _OUTER


def rate_factor(spec: DecoderSpec, name: str, num_axes: int, kind: OptimizerKind) -> float:
    """The factor of the learning rate of the parameter called `name`; 1 in the standard parametrisation."""
    if is_hidden(name, num_axes):
        return 1.0 / width_ratio(spec) if kind == "adamw" else 1.0
    if kind == "adamw":
        return 1.0
    return _head_ratio(spec) if name.endswith(_HEAD_GAINS) else width_ratio(spec)


def parameter_groups(model: "Decoder", weight_decay: float, kind: OptimizerKind) -> list[dict[str, Any]]:
    """An optimizer's parameter groups, each with its `weight_decay` and `lr_factor`; matrices first.

    Parameters with fewer than two axes (biases, norms) do not decay. Decay is divided by the factor, since optimizers
    multiply it by the learning rate: what weights lose in a step then does not depend on width.
    """
    groups: dict[tuple[bool, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        factor = rate_factor(model.spec, name, parameter.ndim, kind)
        groups.setdefault((parameter.ndim < 2, factor), []).append(parameter)
    return [
        {"params": members, "weight_decay": 0.0 if is_vector else weight_decay / factor, "lr_factor": factor}
        for (is_vector, factor), members in sorted(groups.items(), key=lambda item: item[0])
    ]
