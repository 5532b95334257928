"""How many sequences a rank computes at once. Where the study leaves it open a GPU's memory is measured.

A part that does not fit cannot be tried and halved, as `train` does: a rank that fails within DeepSpeed's collectives
leaves the others waiting in them. So two small parts are computed, with no effect, and the largest that fits is worked
out from them; what the whole share would need on a CPU is not known beforehand, so there all of it is computed at once.
"""

from collections.abc import Callable
from functools import partial

import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.reference.training import ReferenceTraining
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun

_USED_SHARE = 0.9  # of what is free: allocators lose some of it, and what collectives take comes and goes (assumption)


def rows_at_once(run: TrainRun, view: RecipeView, engine: DeepSpeedEngine, world: World) -> int:
    """Most sequences that a rank computes at once; the same on all ranks, at most a rank's share of a batch."""
    largest = -(-run.settings.batch_sequences // world.size)
    if engine.micro_batch_tokens != "auto":
        return min(largest, max(1, engine.micro_batch_tokens // run.model.context))
    if largest == 1 or not _is_measured(world.device):
        return largest
    rehearsal = ReferenceTraining(run, view, engine, world, rows=1)
    try:
        # The first makes what is made once: kernels, workspaces, buffers of collectives.
        _, one, two = (_bytes_of(partial(rehearsal.rehearse, rows), world.device) for rows in (1, 1, 2))
        room = _free_bytes(world.device) - rehearsal.masters.bytes_of_first_step
    finally:
        rehearsal.close()
    fits: list[int] = world.gather_everywhere(rows_that_fit(one, two, int(_USED_SHARE * room), largest))
    return min(fits)


def rows_that_fit(one: int, two: int, room: int, most: int) -> int:
    """How many sequences fit into `room` bytes where one takes `one` and two take `two`; at least 1, at most `most`."""
    each = max(1, two - one)
    return max(1, min(most, (room - (one - each)) // each))


def _is_measured(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _bytes_of(action: Callable[[], None], device: str) -> int:
    """The most bytes that `action` held at once above what was held before."""
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    action()
    return torch.cuda.max_memory_allocated(device) - held


def _free_bytes(device: str) -> int:
    """What the device has left, and what torch's allocator holds without using it."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
