"""Evaluations of decoders' runs: kept as they are made on the way, and made later from kept weights."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from raystudy.artifacts.downstream import mended_answers
from raystudy.artifacts.evaluations import plain_readout, reading_of
from raystudy.artifacts.results import Record
from raystudy.artifacts.weights import branch_path, read_branch_point, read_weights, write_branch_point, write_weights
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.downstream_work import answer_tasks
from raystudy.execute.floor_work import trigram_floors
from raystudy.execute.workplace import Workplace
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.execute.workplace import Documents
    from raystudy.train.evaluation import Evaluation
    from raystudy.train.on_the_way import Read


def keep_reading(run: TrainRun, at: Workplace, read: "Read", *, is_again: bool = False) -> None:
    """Keep what was read on the way: weights while they are small, evaluations and answers, or that there are none.

    Of a run that is trained again, what is there and whole stays.
    """
    if not read.evaluations:
        keep_diverged(run, at, read.reading, is_again=is_again)
        return
    keep_weights(run, at, read.reading, read.weights, is_again=is_again)
    trigram = trigram_floors(at.storage.root, at.view(run.shards), at.documents())
    for digest, evaluation in read.evaluations.items():
        if not is_again or at.storage.runs.read_evaluation(run.run_id, digest, read.reading) is None:
            write_evaluation(run, at, digest, read.reading, evaluation, read.unigram[digest], trigram[digest])
    tasks = lacking_tasks(run, at, read.reading) if is_again else at.downstream
    answer_tasks(run, at.storage, tasks, read.weights, at.device, read.reading)


def keep_weights(
    run: TrainRun, at: Workplace, reading: Reading, weights: Mapping[str, npt.NDArray[Any]], *, is_again: bool
) -> None:
    """Keep weights while they are small; of a run that is trained again, whole ones that are there stay."""
    folder = at.storage.runs.folder(run.run_id)
    try:
        if is_again and read_weights(folder, reading.step, reading.readout) is not None:
            return
    except StorageError as error:
        at.storage.runs.put_weights_aside(run.run_id, reading.step, str(error), reading.readout)
    write_weights(folder, reading.step, weights, reading.readout)


def keep_branch_point(
    run: TrainRun, at: Workplace, step: int, arrays: Mapping[str, npt.NDArray[Any]], *, is_again: bool
) -> None:
    """Keep what a branch starts from; of a run that is trained again, what is there and whole stays."""
    folder = at.storage.runs.folder(run.run_id)
    try:
        if is_again and read_branch_point(folder, step) is not None:
            return
    except StorageError as error:
        at.storage.runs.put_file_aside(branch_path(folder, step), str(error))
    write_branch_point(folder, step, arrays)


def lacking_tasks(run: TrainRun, at: Workplace, reading: Reading) -> dict[str, str]:
    """The tasks, by digest of their items, that the weights of a reading have not answered."""
    runs = at.storage.runs
    return {d: n for d, n in at.downstream.items() if mended_answers(runs, run.run_id, d, reading) is None}


def keep_diverged(run: TrainRun, at: Workplace, reading: Reading, *, is_again: bool) -> None:
    """Keep that a reading's weights had diverged; of a run that is trained again, what is there and whole stays."""
    about = {"step": reading.step, "readout": plain_readout(reading.readout), "status": "diverged"}
    for digest in at.validation:
        if not is_again or at.storage.runs.read_evaluation(run.run_id, digest, reading) is None:
            at.storage.runs.write_evaluation(run.run_id, {"validation": digest, **about})


def write_evaluation(
    run: TrainRun,
    at: Workplace,
    digest: str,
    reading: Reading,
    evaluation: "Evaluation",
    unigram: float,
    trigram: float | None,
) -> None:
    """Leave one evaluation on the storage."""
    at.storage.runs.write_evaluation(
        run.run_id,
        {
            "run_id": run.run_id,
            "validation": digest,
            "step": reading.step,
            "readout": plain_readout(reading.readout),
            "unigram_loss": unigram,
            "trigram_loss": trigram,
            "loss_sum": evaluation.loss_sum.tolist(),
            "num_tokens": evaluation.num_tokens.tolist(),
            "num_bytes": evaluation.num_bytes.tolist(),
        },
    )


def evaluate_kept(run: TrainRun, at: Workplace, documents: "Documents", asked: Asked, record: Record) -> bool:
    """Evaluate kept weights of a run on `record`, and put tasks to them, where that lacks.

    A branch whose parent diverged before it took no step: all its readings have diverged, and training would not help.
    Returns whether the run must be trained again for what has no weights.

    Raises:
        RaystudyError: the last weights were not kept, or some have a loss that is not finite.
    """
    runs, last = at.storage.runs, Reading(step=run.settings.steps)
    is_finished = record.status == "finished"
    never_began = not is_finished and run.starts_from is not None and "data_order" not in record.result
    diverged = {reading_of(v) for v in runs.read_evaluations(run.run_id) if v.get("status") == "diverged"}
    readings = [last, *asked.readings] if is_finished else [r for r in asked.readings if r.step < last.step]
    must_train = False
    for reading in readings:
        lacking = {d: v for d, v in documents.items() if runs.read_evaluation(run.run_id, d, reading) is None}
        if never_began or reading in diverged:
            if lacking:
                keep_diverged(run, at, reading, is_again=True)
            continue
        tasks = lacking_tasks(run, at, reading)
        if not lacking and not tasks:
            continue
        is_torn = False
        try:
            arrays = read_weights(runs.folder(run.run_id), reading.step, reading.readout)
        except StorageError as error:
            runs.put_weights_aside(run.run_id, reading.step, str(error), reading.readout)
            arrays, is_torn = None, True
        if arrays is not None:
            _measure(run, at, lacking, tasks, reading, arrays)
        elif reading == last and not is_torn:
            wants = [f"be evaluated on {', '.join(at.validation[digest] for digest in lacking)}"] if lacking else []
            wants += [f"answer the tasks {', '.join(tasks.values())}"] if tasks else []
            raise RaystudyError(
                f"run {run.run_id} must {' and '.join(wants)}, but its weights were not kept. "
                f"Remove its folder from the storage to train it again"
            )
        else:
            must_train = True
    return must_train


def _measure(
    run: TrainRun,
    at: Workplace,
    lacking: "Documents",
    tasks: Mapping[str, str],
    reading: Reading,
    arrays: dict[str, npt.NDArray[Any]],
) -> None:
    from raystudy.train.process import reset_state
    from raystudy.train.run import evaluate_all, load_weights, unigram_floors

    reset_state(run.seed)
    view = at.view(run.shards)
    floors, trigram = unigram_floors(view, lacking), trigram_floors(at.storage.root, view, lacking)
    model = load_weights(run, arrays, at.device)
    for digest, evaluation in evaluate_all(model, run, lacking, at.device).items():
        if not math.isfinite(evaluation.nats_per_token):
            raise RaystudyError(
                f"the loss of run {run.run_id} on {at.validation[digest]} must be finite, but is "
                f"{evaluation.nats_per_token}: its weights are no use there. Leave that validation set out"
            )
        write_evaluation(run, at, digest, reading, evaluation, floors[digest], trigram[digest])
    answer_tasks(run, at.storage, tasks, arrays, at.device, reading)
