"""Where a decay branch starts: what its parent kept at that step, else the parent's steps taken again.

Replaying makes a branch possible from any run on record, whatever was kept and however large: it costs the parent's
steps once more and gives the same weights. One that is stopped goes on from the checkpoint of the branch.
"""

import json
import time
from typing import TYPE_CHECKING, Literal

from raystudy.artifacts.shards import RecipeView
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import branch_path, read_branch_point, write_branch_point
from raystudy.errors import RaystudyError, StorageError
from raystudy.specs.run import TrainRun, read_run

if TYPE_CHECKING:
    from raystudy.train.checkpoint import Checkpoints
    from raystudy.train.run import Start


class ParentDivergedError(RaystudyError):
    """The parent of a branch has no finite weights at the step where the branch would start."""


def start_or_go_on(
    run: TrainRun,
    storage: Storage,
    view: RecipeView,
    device: str,
    micro_batch_tokens: int | Literal["auto"] = "auto",
    checkpoints: "Checkpoints | None" = None,
) -> "Start | None":
    """As `start_of`; a branch that goes on from its own checkpoint needs nothing of its parent taken again."""
    if run.starts_from is not None and checkpoints is not None and checkpoints.look():
        from raystudy.train.run import Start

        return Start(None, _parent(run, storage), checkpoints.replayed_steps)
    start = start_of(run, storage, view, device, micro_batch_tokens, checkpoints)
    if start is not None and checkpoints is not None:
        checkpoints.replayed_steps = start.replayed_steps
        checkpoints.replayed_seconds += start.seconds
    return start


def start_of(
    run: TrainRun,
    storage: Storage,
    view: RecipeView,
    device: str,
    micro_batch_tokens: int | Literal["auto"] = "auto",
    checkpoints: "Checkpoints | None" = None,
) -> "Start | None":
    """Where `run` starts; None for a run that starts at initialisation. `checkpoints`: of the branch that is to start.

    Raises:
        ParentDivergedError: the parent diverged before.
        RaystudyError: the parent has no record, or read other shards.
    """
    if run.starts_from is None:
        return None
    from raystudy.train.run import Start, replay

    parent, step = _parent(run, storage), run.starts_from.step
    folder = storage.runs.folder(parent.run_id)
    try:
        kept = read_branch_point(folder, step)
    except StorageError as error:
        storage.runs.put_file_aside(branch_path(folder, step), str(error))
        kept = None
    if kept is not None:
        return Start(kept, parent, replayed_steps=0)
    began = time.perf_counter()
    begun = start_of(parent, storage, view, device, micro_batch_tokens, checkpoints)
    made = replay(parent, view, step, device, begun, micro_batch_tokens, checkpoints)
    if made is None:
        raise ParentDivergedError(f"run {parent.run_id} must be finite after step {step}, but has diverged")
    write_branch_point(folder, step, made)
    return Start(made, parent, replayed_steps=step, seconds=time.perf_counter() - began)


def _parent(run: TrainRun, storage: Storage) -> TrainRun:
    assert run.starts_from is not None
    record = storage.runs.read(run.starts_from.run_id)
    if record is None:
        raise RaystudyError(
            f"a branch must start from a run with a record, but run {run.starts_from.run_id} has none. "
            f"Run the study again, which makes it first"
        )
    parent = read_run(json.dumps(record.result["spec"]))
    if not isinstance(parent, TrainRun) or parent.run_id != run.starts_from.run_id or parent.shards != run.shards:
        raise RaystudyError(f"run {run.run_id} must branch from a decoder's run on its own shards, but does not")
    return parent
