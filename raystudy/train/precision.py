"""Types of a run's numbers. FP32 weights, except in the negative control; evaluation is always in FP32 arithmetic.

fp32            FP32 products
tf32            products of FP32 matrices rounded to 10 mantissa bits, on GPUs only
bf16-autocast   products in bf16 (torch's autocast), FP32 weights, gradients and optimizer
bf16-weights    weights, gradients and optimizer in bf16: updates under 1/512 of a weight are lost
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from raystudy.errors import RaystudyError
from raystudy.specs.training import Precision


def check_device(device: str, precision: Precision = "fp32") -> None:
    """See that `device` is there and computes in `precision`.

    Raises:
        RaystudyError: it is not, or does not.
    """
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise RaystudyError(
            f"a run on {device!r} needs a CUDA device, but torch {torch.__version__} finds none here. "
            f"Set resources.gpus_per_run to 0, or go where there is a GPU and a build of torch for it"
        )
    if precision == "tf32" and kind != "cuda":
        raise RaystudyError(f"tf32 must be computed on a GPU, but got device {device!r}. Ask for a GPU, or use fp32")


def with_weights_of(model: nn.Module, precision: Precision) -> nn.Module:
    """The model itself, its weights rounded to the type in which `precision` keeps them."""
    return model.to(torch.bfloat16) if precision == "bf16-weights" else model


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Around a forward and backward pass: whether products of FP32 matrices may be in TF32."""
    if precision != "tf32":
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Around a forward pass alone."""
    if precision != "bf16-autocast":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
