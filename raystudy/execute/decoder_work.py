"""Runs of decoders: read shards, train, leave a record; or evaluate kept weights where only evaluations lack.

The same for every kind of worker. torch is loaded when something is trained or evaluated.
"""

import datetime
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.checkpoints import remove_checkpoint
from raystudy.errors import RaystudyError
from raystudy.execute.branch_start import ParentDivergedError, start_of
from raystudy.execute.downstream_work import answer_tasks, open_items_once
from raystudy.execute.evaluations import (
    evaluate_kept,
    keep_branch_point,
    keep_diverged,
    keep_reading,
    keep_weights,
    lacking_tasks,
    write_evaluation,
)
from raystudy.execute.floor_work import trigram_floors
from raystudy.execute.workplace import Workplace
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.execute.workplace import Documents
    from raystudy.train.checkpoint import Checkpoints
    from raystudy.train.run import Outcome


def make_decoder_run(run: TrainRun, at: Workplace, asked: Asked | None = None) -> tuple[str, bool]:
    """Make the run if it has no record, or what it lacks of evaluations; returns its status, and whether it was made.

    Kept weights are evaluated. Where a reading that is `asked` lacks, and its weights were not kept, the run is trained
    again for it; its first result stays.

    Raises:
        RaystudyError: trained again it ends in another way.
    """
    asked = asked or Asked()
    record = at.storage.runs.read(run.run_id, run=run)
    documents = at.documents()
    for digest in at.downstream:
        open_items_once(at.storage.root, digest)  # what is damaged is told before anything is trained
    if record is None:
        return _train(run, at, documents, asked), True
    if record.status == "out-of-memory":
        return record.status, False
    if evaluate_kept(run, at, documents, asked, record):
        status = _train(run, at, documents, asked, is_again=True)
        if status != record.status:
            raise RaystudyError(
                f"run {run.run_id}, trained again for readings, must end {record.status} as it did, but is {status}. "
                f"Leave the readings out, or remove its folder from the storage to make it anew"
            )
    return record.status, False


def _train(run: TrainRun, at: Workplace, documents: "Documents", asked: Asked, *, is_again: bool = False) -> str:
    """Train and leave a record; of a run that is trained again what lacks, and nothing that belongs to its result."""
    from raystudy.train.micro_batches import is_out_of_memory
    from raystudy.train.on_the_way import Keeping
    from raystudy.train.run import Means, train

    runs, started_at = at.storage.runs, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    folder = runs.folder(run.run_id)
    runs.write_spec(run)
    keeping = Keeping(
        read=lambda read: keep_reading(run, at, read, is_again=is_again),
        branch_point=lambda step, arrays: keep_branch_point(run, at, step, arrays, is_again=is_again),
    )
    try:
        means, view = Means(at.micro_batch_tokens, _checkpoints(run, at, asked)), at.view(run.shards)
        start = start_of(run, at.storage, view, at.device, at.micro_batch_tokens)
        outcome = train(run, view, documents, at.device, means, asked=asked, keeping=keeping, start=start)
    except ParentDivergedError as error:
        for reading in asked.readings:
            if reading.step < run.settings.steps:  # of its last step the result tells
                keep_diverged(run, at, reading, is_again=is_again)
        result = _result(run, "diverged", [], {"total": 0.0}, _provenance(at, started_at))
        runs.write_result(run.run_id, {**result, "cause": str(error)})
        return "diverged"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        result = _result(run, "out-of-memory", [], {"total": 0.0}, _provenance(at, started_at))
        runs.write_result(run.run_id, {**result, "cause": f"{type(error).__name__}: {error}"})
        return "out-of-memory"
    metrics, seconds = _keep_last(run, at, documents, outcome, is_again=is_again)
    at.notes.extend([means.checkpoints.note] if means.checkpoints and means.checkpoints.note else [])
    provenance = {**_provenance(at, started_at), **outcome.made, "notes": list(at.notes)}
    result = _result(run, outcome.status, metrics, seconds, provenance)
    details: dict[str, Any] = {
        "moved": outcome.moved,
        "epochs_per_source": outcome.epochs,
        "data_order": outcome.data_order,
    }
    details |= {"cause": outcome.cause} if outcome.cause else {}
    details |= {} if start is None else {"replayed_steps": start.replayed_steps}
    runs.write_result(run.run_id, {**result, **details})
    remove_checkpoint(folder)
    return outcome.status


def _keep_last(
    run: TrainRun, at: Workplace, documents: "Documents", outcome: "Outcome", *, is_again: bool
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Keep the curve, the last weights, their evaluations and answers; metric rows and seconds for the result.

    Of a run that is trained again, what is there and whole stays: its result tells of it.
    """
    runs, last = at.storage.runs, Reading(step=run.settings.steps)
    if not is_again or not runs.read_curve(run.run_id):
        runs.write_curve(run.run_id, outcome.curve)
    if outcome.status == "finished":
        keep_weights(run, at, last, outcome.weights, is_again=is_again)
    trigram = trigram_floors(at.storage.root, at.view(run.shards), documents)
    for digest, evaluation in outcome.final.items():
        if not is_again or runs.read_evaluation(run.run_id, digest, last) is None:
            write_evaluation(run, at, digest, last, evaluation, outcome.unigram[digest], trigram[digest])
    metrics, seconds = _metrics(at, outcome, trigram), dict(outcome.seconds)
    tasks = lacking_tasks(run, at, last) if is_again else at.downstream
    if outcome.status == "finished" and tasks:
        rows, took = answer_tasks(run, at.storage, tasks, outcome.weights, at.device, last)
        metrics, seconds = metrics + rows, {**seconds, "downstream": took, "total": seconds["total"] + took}
    return metrics, seconds


def _checkpoints(run: TrainRun, at: Workplace, asked: Asked) -> "Checkpoints | None":
    from raystudy.train.checkpoint import Checkpoints

    if at.checkpoint_minutes is None:
        return None
    return Checkpoints(at.storage.runs.folder(run.run_id), run.run_id, at.device, 60 * at.checkpoint_minutes, asked)


def _result(
    run: TrainRun, status: str, metrics: list[dict[str, Any]], seconds: Mapping[str, float], provenance: dict[str, Any]
) -> dict[str, Any]:
    return {
        "status": status,
        "spec": run.model_dump(mode="json"),
        "metrics": metrics,
        "num_tokens": run.num_tokens,
        "seconds": dict(seconds),
        "provenance": provenance,
    }


def _metrics(at: Workplace, outcome: "Outcome", trigram: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Rows of name, dataset, value, unit, direction. Losses that are not finite, as of a diverged run, are left out."""
    rows = []
    for digest, name in at.validation.items():
        values = [("initial-loss", outcome.initial[digest].nats_per_token, "nats per token")]
        values.append(("unigram-loss", outcome.unigram[digest], "nats per token"))
        floor = trigram[digest]
        values += [] if floor is None else [("trigram-loss", floor, "nats per token")]
        if outcome.status == "finished":
            values.append(("loss", outcome.final[digest].nats_per_token, "nats per token"))
            values.append(("bits-per-byte", outcome.final[digest].bits_per_byte, "bits per byte"))
        rows += [
            {
                "name": metric,
                "dataset": digest,
                "dataset_name": name,
                "value": value,
                "unit": unit,
                "direction": "lower-is-better",
            }
            for metric, value, unit in values
            if math.isfinite(value)
        ]
    return rows


def _provenance(at: Workplace, started_at: str) -> dict[str, Any]:
    from raystudy.train.process import versions

    packages = {**at.about["packages"], **versions()}
    return {**at.about, "packages": packages, "started_at": started_at}
