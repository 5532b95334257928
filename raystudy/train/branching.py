"""What a branch starts from: weights and optimizer of its parent after a step, as named arrays. No files.

Kept while the parent trains, or made again by replaying the parent's steps: both are the same on one device.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raystudy.errors import StorageError

Arrays = Mapping[str, npt.NDArray[Any]]


def branch_point(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, npt.NDArray[Any]]:
    """Weights and optimizer as arrays."""
    arrays = {f"weights/{name}": _array(weight) for name, weight in model.named_parameters()}
    for index, entry in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer/{index}/{key}": _array(value) for key, value in entry.items() if value is not None}
    return arrays


def start_from(model: nn.Module, optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Put weights and optimizer back.

    Raises:
        StorageError: the arrays are not those of this model.
    """
    weights = dict(model.named_parameters())
    shapes = {name.removeprefix("weights/"): a.shape for name, a in arrays.items() if name.startswith("weights/")}
    if shapes != {name: tuple(weight.shape) for name, weight in weights.items()}:
        raise StorageError("a branch must start from the weights of its own model, but got those of another")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(torch.from_numpy(np.array(arrays[f"weights/{name}"])))
    state: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        kind, index, *key = name.split("/")
        if kind == "optimizer":
            state.setdefault(int(index), {})[key[0]] = torch.from_numpy(np.array(array))
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _array(value: Any) -> npt.NDArray[Any]:
    return np.array(value.detach().cpu().numpy()) if isinstance(value, Tensor) else np.array(value)
