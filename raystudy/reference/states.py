"""FP32 master weights and optimizer state of a DeepSpeed engine, whole and by the names of parameters.

How workers share them out depends on the ZeRO stage and on their number; what is gathered does not. Every function
here must be called by all ranks alike. DeepSpeed's own `safe_get_full_optimizer_state` is not used: after its first
step it links the state of the first parameter group only (0.19.8, stages 1 and 2).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from raystudy.errors import RaystudyError
from raystudy.reference.world import World
from raystudy.train.tensors import Arrays, to_array, to_tensor


@dataclass(frozen=True)
class Piece:
    """What this rank holds of one parameter's FP32 master.

    `count` numbers of the tensor `flat`, from `at` on: those of the flattened parameter from `start` on. The optimizer
    keeps its state under `flat`, shaped like it. `is_whole`: every rank holds all of it.
    """

    flat: Tensor
    at: int
    start: int
    count: int
    is_whole: bool = False


class Masters:
    """The master weights behind the parameters of `module`, which `engine` trains."""

    def __init__(self, engine: Any, module: nn.Module, world: World) -> None:
        self.world = world
        self.parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
        self._shapes = {
            name: torch.Size(getattr(weight, "ds_shape", weight.shape)) for name, weight in self.parameters.items()
        }
        pieces = dict(_pieces(engine, world))
        self._pieces = {name: pieces[id(weight)] for name, weight in self.parameters.items()}
        inner = engine.optimizer  # at stage 0 in FP32 the torch optimizer itself
        self.optimizer: torch.optim.Optimizer = inner if isinstance(inner, torch.optim.Optimizer) else inner.optimizer

    @property
    def bytes_of_first_step(self) -> int:
        """What the first step will take on a GPU beside what is held now, in bytes: for each master that this rank
        updates two numbers of AdamW, a gradient and a copy of it; all FP32."""
        flats = {id(piece.flat): piece.flat for piece in self._pieces.values()}
        return 16 * sum(flat.numel() for flat in flats.values() if flat.device.type == "cuda")

    def weight(self, name: str) -> Tensor:
        """The whole FP32 master of one parameter, on the device of this rank."""
        piece = self._pieces[name]
        return self._whole(name, piece, piece.flat)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's whole FP32 master, one at a time."""
        for name in self.parameters:
            yield name, self.weight(name)

    def set_weight(self, name: str, value: Tensor) -> None:
        """Make `value` one parameter's master, and its working weights that value rounded."""
        piece, parameter = self._pieces[name], self.parameters[name]
        with torch.no_grad():
            _put(piece, piece.flat, value)
            shard = getattr(parameter, "ds_tensor", None)
            if shard is None:
                parameter.data.copy_(value)
                return
            count = piece.count
            shard.data.view(-1)[:count].copy_(value.reshape(-1)[piece.start : piece.start + count])
            if parameter.data.numel() == value.numel():  # one that is not shared out for its smallness
                parameter.data.copy_(value)

    def optimizer_arrays(self) -> Arrays:
        """What the optimizer keeps of each parameter, as `<key>/<parameter>`; empty but on rank 0."""
        arrays: Arrays = {}
        for name, piece in self._pieces.items():
            for key, value in self.optimizer.state.get(piece.flat, {}).items():
                if not isinstance(value, Tensor):
                    continue
                whole = value if value.numel() == 1 and value.ndim == 0 else self._whole(name, piece, value)
                if self.world.is_first:
                    arrays[f"{key}/{name}"] = to_array(whole)
        return arrays

    def clear_optimizer(self) -> None:
        """Let the optimizer begin with no state."""
        self.optimizer.state.clear()

    def set_optimizer(self, key: str, name: str, value: Tensor) -> None:
        """Give the optimizer back one of `optimizer_arrays`, whole."""
        piece = self._pieces[name]
        state = self.optimizer.state[piece.flat]
        if value.ndim == 0:
            state[key] = value.to(piece.flat.device)
            return
        if key not in state:
            state[key] = torch.zeros_like(piece.flat, requires_grad=False)
        _put(piece, state[key], value)

    def _whole(self, name: str, piece: Piece, held: Tensor) -> Tensor:
        shape = self._shapes[name]
        part = held.detach().reshape(-1)[piece.at : piece.at + piece.count].to(self.world.device, torch.float32)
        if piece.is_whole:
            return part.view(shape).clone()
        whole = torch.zeros(shape.numel(), device=self.world.device)
        whole[piece.start : piece.start + piece.count] = part
        return self.world.sum(whole).view(shape)


def arrays_of(masters: Masters) -> Arrays:
    """Masters and optimizer as `weight/<parameter>` and `optimizer/<key>/<parameter>`; empty but on rank 0.

    The names are those of `train.training.Training.state`.
    """
    arrays: Arrays = {}
    for name, weight in masters.weights():
        if masters.world.is_first:
            arrays[f"weight/{name}"] = to_array(weight)
    return arrays | {f"optimizer/{key}": array for key, array in masters.optimizer_arrays().items()}


def set_arrays(masters: Masters, arrays: Mapping[str, npt.NDArray[Any]] | None, world: World) -> None:
    """Put back what `arrays_of` gave, whatever the number of ranks and the stage were then; `arrays` are rank 0's.

    Raises:
        RaystudyError: the arrays are not those of this model.
    """
    mine = arrays or {}
    places = world.broadcast([key for key in mine if key.startswith(("weight/", "optimizer/"))])
    found = {place.removeprefix("weight/") for place in places if place.startswith("weight/")}
    if found != set(masters.parameters):
        lacking, unknown = sorted(set(masters.parameters) - found), sorted(found - set(masters.parameters))
        raise RaystudyError(
            f"the weights put back must be those of this model, but {', '.join(lacking) or 'none'} lack and "
            f"{', '.join(unknown) or 'none'} are not its own. Remove the checkpoint to train from the beginning"
        )
    masters.clear_optimizer()
    for place in places:
        value = to_tensor(world.broadcast_array(mine.get(place)))
        part, _, name = place.partition("/")
        if part == "weight":
            masters.set_weight(name, value)
        else:
            key, _, owner = name.partition("/")
            masters.set_optimizer(key, owner, value)


def _pieces(engine: Any, world: World) -> Iterator[tuple[int, Piece]]:
    """What this rank holds of every parameter, by the parameter's `id`."""
    optimizer = engine.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):  # stage 0 in FP32: the parameters themselves
        for group in optimizer.param_groups:
            for weight in group["params"]:
                yield id(weight), Piece(weight, 0, 0, weight.numel(), is_whole=True)
    elif hasattr(optimizer, "fp16_groups") and hasattr(optimizer, "fp32_groups"):  # stage 0 in bf16
        for weights, copies in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for weight, copy in zip(weights, copies, strict=True):
                yield id(weight), Piece(copy, 0, 0, copy.numel(), is_whole=True)
    elif hasattr(optimizer, "grad_position"):  # stage 3: every parameter is cut into one part for each rank
        for weights in optimizer.fp16_groups:
            for weight in weights:
                group, at, count = optimizer.grad_position[optimizer.get_param_id(weight)]
                start = world.rank * int(weight.ds_tensor.ds_numel)
                held = max(0, min(int(count), int(weight.ds_numel) - start))
                yield id(weight), Piece(optimizer.fp32_partitioned_groups_flat[group], int(at), start, held)
    else:  # stages 1 and 2: each group of parameters is laid end to end and cut into one part for each rank
        yield from _flat_pieces(optimizer)


def _flat_pieces(optimizer: Any) -> Iterator[tuple[int, Piece]]:
    with_masters = hasattr(optimizer, "fp32_groups_flat_partition")  # DeepSpeed's BF16_Optimizer
    groups = optimizer.bf16_groups if with_masters else optimizer.bit16_groups
    flats = optimizer.fp32_groups_flat_partition if with_masters else optimizer.single_partition_of_fp32_groups
    for weights, flat in zip(groups, flats, strict=True):
        for weight in weights:
            held = weight._hp_mapping
            if held is None:  # all of it lies with other ranks
                yield id(weight), Piece(flat, 0, 0, 0)
            else:
                at, start = held.hp_fragment_address, held.lp_fragment_address
                yield id(weight), Piece(flat, int(at.start), int(start.start), int(at.numel))


def _put(piece: Piece, held: Tensor, value: Tensor) -> None:
    """Overwrite what this rank holds by its part of the whole `value`."""
    with torch.no_grad():
        part = value.reshape(-1)[piece.start : piece.start + piece.count]
        held.data.view(-1)[piece.at : piece.at + piece.count].copy_(part)
