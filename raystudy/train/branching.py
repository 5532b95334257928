"""What a branch starts from: weights and optimizer of its parent after a step, as named arrays. No files.

Kept while the parent trains, or made again by replaying the parent's steps: both are the same on one device.
"""

import torch
from torch import nn

from raystudy.errors import StorageError
from raystudy.train.tensors import Arrays, optimizer_arrays, put, set_optimizer, to_array

_WEIGHT, _OPTIMIZER = "weight/", "optimizer/"


def branch_point(model: nn.Module, optimizer: torch.optim.Optimizer) -> Arrays:
    """Weights and optimizer as arrays."""
    arrays = {_WEIGHT + name: to_array(weight) for name, weight in model.named_parameters()}
    return arrays | {_OPTIMIZER + name: array for name, array in optimizer_arrays(model, optimizer).items()}


def start_from(model: nn.Module, optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Put weights and optimizer back.

    Raises:
        StorageError: the arrays are not those of this model.
    """
    weights = dict(model.named_parameters())
    found = {name.removeprefix(_WEIGHT): array for name, array in arrays.items() if name.startswith(_WEIGHT)}
    shapes = {name: tuple(array.shape) for name, array in found.items()}
    if shapes != {name: tuple(weight.shape) for name, weight in weights.items()}:
        raise StorageError("a branch must start from the weights of its own model, but got those of another")
    with torch.no_grad():
        for name, weight in weights.items():
            put(found[name], weight)
    kept = {name.removeprefix(_OPTIMIZER): a for name, a in arrays.items() if name.startswith(_OPTIMIZER)}
    set_optimizer(model, optimizer, kept)
