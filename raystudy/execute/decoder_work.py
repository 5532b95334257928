"""Runs of decoders: read shards, train, leave a record; or evaluate kept weights where only evaluations lack.

In one process; what several workers train together is in rank.py. torch is loaded when something is trained or
evaluated.
"""

from typing import TYPE_CHECKING

from raystudy.artifacts.checkpoints import remove_checkpoint
from raystudy.artifacts.results import Record
from raystudy.errors import RaystudyError
from raystudy.execute.branch_start import ParentDivergedError, start_or_go_on
from raystudy.execute.downstream_work import open_items_once
from raystudy.execute.evaluations import evaluate_kept
from raystudy.execute.recording import Recording
from raystudy.execute.workplace import Workplace
from raystudy.specs.reading import Asked
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.execute.workplace import Documents
    from raystudy.train.checkpoint import Checkpoints


def make_decoder_run(run: TrainRun, at: Workplace, asked: Asked | None = None) -> tuple[str, bool]:
    """Make the run if it has no record, or what it lacks of evaluations; returns its status, and whether it was made.

    Kept weights are evaluated. Where a reading that is `asked` lacks, and its weights were not kept, the run is trained
    again for it; its first result stays.

    Raises:
        RaystudyError: trained again it ends in another way.
    """
    asked, documents = asked or Asked(), at.documents()
    record, must_train = see_what_lacks(run, at, documents, asked)
    if record is not None and not must_train:
        return record.status, False
    status = _train(run, at, documents, asked, is_again=record is not None)
    check_same_end(run, record, status)
    return status, record is None


def see_what_lacks(run: TrainRun, at: Workplace, documents: "Documents", asked: Asked) -> tuple[Record | None, bool]:
    """The run's record, and whether it must be trained; what kept weights can give is made before.

    Raises:
        DamagedError: a downstream task's items are not what was written: told before anything is trained.
        RaystudyError: what lacks cannot be made.
    """
    record = at.storage.runs.read(run.run_id, run=run)
    for digest in at.downstream:
        open_items_once(at.storage.root, digest)
    if record is None:
        return None, True
    if record.status == "out-of-memory":
        return record, False
    return record, evaluate_kept(run, at, documents, asked, record)


def check_same_end(run: TrainRun, record: Record | None, status: str) -> None:
    """See that a run which was trained again ended as its record says.

    Raises:
        RaystudyError: it did not.
    """
    if record is not None and status != record.status:
        raise RaystudyError(
            f"run {run.run_id}, trained again for readings, must end {record.status} as it did, but is {status}. "
            f"Leave the readings out, or remove its folder from the storage to make it anew"
        )


def _train(run: TrainRun, at: Workplace, documents: "Documents", asked: Asked, *, is_again: bool = False) -> str:
    """Train and leave a record; of a run that is trained again what lacks, and nothing that belongs to its result."""
    from raystudy.train.micro_batches import is_out_of_memory
    from raystudy.train.run import Means, train

    recording = Recording(run, at, documents, asked, is_again=is_again)
    try:
        means, view = Means(at.micro_batch_tokens, _checkpoints(run, at, asked)), at.view(run.shards)
        start = start_or_go_on(run, at.storage, view, at.device, at.micro_batch_tokens, means.checkpoints)
        keeping = recording.keeping()
        outcome = train(run, view, documents, at.device, means, asked=asked, keeping=keeping, start=start)
    except ParentDivergedError as error:
        return recording.never_began(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return recording.out_of_memory(f"{type(error).__name__}: {error}")
    at.notes.extend([means.checkpoints.note] if means.checkpoints and means.checkpoints.note else [])
    if start is not None and start.replayed_steps:
        took = start.seconds if means.checkpoints is None else means.checkpoints.replayed_seconds
        outcome.seconds |= {"replay": took, "earlier": outcome.seconds["earlier"] + took - start.seconds}
    status = recording.ended(outcome, None if start is None else {"replayed_steps": start.replayed_steps})
    remove_checkpoint(at.storage.runs.folder(run.run_id))
    return status


def _checkpoints(run: TrainRun, at: Workplace, asked: Asked) -> "Checkpoints | None":
    from raystudy.train.checkpoint import Checkpoints

    if at.checkpoint_minutes is None:
        return None
    return Checkpoints(at.storage.runs.folder(run.run_id), run.run_id, at.device, 60 * at.checkpoint_minutes, asked)
