"""Tensors as arrays and back, bit for bit, whatever device they are on.

numpy has no bf16: such a tensor becomes an array of uint16 with the same bits. No other tensor here is of 16 bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Arrays = dict[str, npt.NDArray[Any]]


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A copy of `tensor`."""
    held = tensor.detach().cpu()
    if held.dtype == torch.bfloat16:
        return held.view(torch.uint16).numpy().copy()
    return held.numpy().copy()


def to_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A copy of what `to_array` gave, on the CPU."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def put(array: npt.NDArray[Any], into: Tensor) -> None:
    """Overwrite `into`; no gradient is recorded where the caller has said so.

    Raises:
        ValueError: another shape.
    """
    if tuple(array.shape) != tuple(into.shape):
        raise ValueError(f"an array of shape {tuple(into.shape)} is needed, but got {tuple(array.shape)}")
    into.copy_(to_tensor(array))


def optimizer_arrays(model: nn.Module, optimizer: torch.optim.Optimizer) -> Arrays:
    """What the optimizer keeps of each parameter, as `<key>/<parameter>`."""
    return {
        f"{key}/{name}": to_array(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def set_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Give the optimizer back what `optimizer_arrays` gave."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for place, array in arrays.items():
        key, _, name = place.partition("/")
        optimizer.state[parameters[name]][key] = to_tensor(array).to(parameters[name].device)
