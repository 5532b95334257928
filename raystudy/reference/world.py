"""The processes that train one run together: this one's place among them, and what they tell each other.

Plain data go between them as JSON, arrays as tensors; nothing is unpickled. Knows nothing of DeepSpeed.
"""

import datetime
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from raystudy.errors import RaystudyError
from raystudy.train.precision import check_device

T = TypeVar("T")

_ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
JOINING_SECONDS = 600.0  # in which all ranks must have come together: a node's start and its imports take minutes


class OtherRankError(RaystudyError):
    """Another rank has failed; its own message is the cause."""


@dataclass(frozen=True)
class World:
    """This process's place in the group: `rank` of `size`, and the `device` that it computes on."""

    rank: int
    size: int
    local_rank: int
    device: str

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone reads and writes the storage."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum(torch.zeros(1))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value` on all ranks: plain data, as JSON gives it back (tuples become lists)."""
        text = json.dumps(value if self.is_first else None).encode()
        length = torch.tensor([len(text)], dtype=torch.int64, device=self.device)
        dist.broadcast(length, 0)
        content = _bytes(text, self.device) if self.is_first else _room(int(length.item()), self.device)
        dist.broadcast(content, 0)
        return json.loads(content.cpu().numpy().tobytes())

    def gather(self, value: Any) -> list[Any] | None:
        """The plain data of all ranks, in their order, on rank 0; None elsewhere."""
        found = self.gather_everywhere(value)
        return found if self.is_first else None

    def gather_everywhere(self, value: Any) -> list[Any]:
        """The plain data of all ranks, in their order, on all of them."""
        text = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(text)], dtype=torch.int64, device=self.device))
        counts = [int(length.item()) for length in lengths]
        padded = _bytes(text.ljust(max(counts)), self.device)
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return [json.loads(part.cpu().numpy().tobytes()) for part in parts]

    def broadcast_array(self, array: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Rank 0's `array` on all ranks, bit for bit."""
        about = self.broadcast(None if array is None else {"dtype": str(array.dtype), "shape": list(array.shape)})
        kind = np.dtype(about["dtype"])
        if array is not None and self.is_first:
            content = _bytes(np.ascontiguousarray(array).tobytes(), self.device)
        else:
            content = _room(int(np.prod(about["shape"], dtype=np.int64)) * kind.itemsize, self.device)
        if len(content):
            dist.broadcast(content, 0)
        return np.frombuffer(content.cpu().numpy().tobytes(), dtype=kind).reshape(about["shape"])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on all of them and on the device of `values`; `values` stay as they are."""
        total = values.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def first(self, action: Callable[[], T]) -> T | None:
        """Let rank 0 do something alone. What it raises there is raised on all ranks; its value stays on rank 0.

        Raises:
            OtherRankError: on the others, with rank 0's message.
        """
        return self.together(action if self.is_first else lambda: None)

    def together(self, action: Callable[[], T]) -> T:
        """Do something that needs no other rank; if any rank fails in it, all raise.

        Raises:
            OtherRankError: on those that have not failed themselves, with the first message.
        """
        failure: Exception | None = None
        try:
            done = action()
        except Exception as error:
            failure = error
        said = self.gather_everywhere("" if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, message in enumerate(said):
            if message:
                raise OtherRankError(f"rank {rank} of {self.size} must go on too, but has failed: {message}")
        return done


def join(
    device: Literal["cpu", "cuda"],
    timeout_seconds: float | None = None,
    *,
    meeting: Path | None = None,
    joining_seconds: float = JOINING_SECONDS,
) -> World:
    """Take this process's place in its group: the one that exists, else the one that a launcher's variables name.

    Args:
        device: what each rank computes on; gloo joins CPUs, nccl GPUs.
        timeout_seconds: how long an operation may wait for other ranks; torch's own where not given.
        meeting: a file that is not there yet, through which the ranks of one machine find one another, so that none
            has to listen at MASTER_PORT; the launcher's variables need then only say rank and number.
        joining_seconds: how long all ranks may take to come to MASTER_PORT.

    Raises:
        RaystudyError: there is no such device, no group and no variables that name one, or some ranks did not come.
    """
    check_device(device)
    if not dist.is_initialized():
        needed = _ADDRESS if meeting is None else _ADDRESS[:2]
        missing = [name for name in needed if not os.environ.get(name)]
        if missing:
            raise RaystudyError(
                f"a rank must be told its group by {', '.join(needed)}, but {', '.join(missing)} is not set. Start "
                f"it with torchrun, with the deepspeed launcher or with raystudy run"
            )
        place, rank, size = (
            _device(device, int(os.environ["RANK"])),
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
        )
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=None if meeting is None else f"file://{meeting}",
            store=meet(rank, size, joining_seconds) if meeting is None else None,
            rank=rank,
            world_size=size,
            timeout=None if timeout_seconds is None else datetime.timedelta(seconds=timeout_seconds),
            device_id=_bound(place),
        )
    rank, size = dist.get_rank(), dist.get_world_size()
    place = _device(device, rank)
    return World(rank, size, int(place.partition(":")[2] or os.environ.get("LOCAL_RANK", str(rank))), place)


def meet(rank: int, size: int, seconds: float) -> Store:
    """The store at MASTER_ADDR:MASTER_PORT, once all `size` ranks have come to it; rank 0 or its launcher holds it.

    Raises:
        RaystudyError: some did not come within `seconds`; they are named, where the store is there to tell.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    has_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's agent listens there itself
    is_master, limit = rank == 0 and not has_launcher, datetime.timedelta(seconds=seconds)
    try:
        store = TCPStore(address, port, size, is_master, timeout=limit, wait_for_workers=False)
    except RuntimeError as error:
        holder = "the launcher" if has_launcher else "rank 0"
        raise RaystudyError(
            f"{holder} must listen at {address}:{port} (MASTER_ADDR, MASTER_PORT), but within {seconds:g} s: "
            f"{str(error).splitlines()[0]}. See that it was started, that other machines reach this address, and that "
            f"the port is free"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    here = PrefixStore(f"raystudy-{attempt}", store)
    here.set(f"rank-{rank}", "here")
    places = [f"rank-{each}" for each in range(size)]
    try:
        here.wait(places, limit)
    except RuntimeError as error:
        absent = [str(each) for each, place in enumerate(places) if not _is_there(here, place)]
        raise RaystudyError(
            f"all {size} ranks must come to {address}:{port} within {seconds:g} s, but rank{'s' * (len(absent) > 1)} "
            f"{', '.join(absent) or 'of an unknown number'} did not. See that the launcher started them, that nothing "
            f"ended them before, and that their machines reach this address"
        ) from error
    return here


def _is_there(store: Store, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except RuntimeError:  # who held the store has gone
        return True


def leave(world: World) -> None:
    """Give up the place; to be called by all ranks."""
    if dist.is_initialized():
        world.barrier()
        dist.destroy_process_group()


def _device(device: str, rank: int) -> str:
    if device == "cpu":
        return "cpu"
    local, count = int(os.environ.get("LOCAL_RANK", str(rank))), torch.cuda.device_count()
    index = 0 if count == 1 else local  # a launcher may show each of its processes one GPU
    if index >= count:
        raise RaystudyError(
            f"each rank of a machine must have a GPU of its own, but rank {local} of this one finds {count}. Ask for "
            f"fewer workers for each machine"
        )
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def _bound(place: str) -> torch.device | None:
    return None if place == "cpu" else torch.device(place)


def _bytes(content: bytes, device: str) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device) if content else _room(0, device)


def _room(length: int, device: str) -> Tensor:
    return torch.empty(length, dtype=torch.uint8, device=device)
