"""Runs of decoders: read shards, train, leave a record; or evaluate kept weights where only evaluations lack.

The same for every kind of worker. torch is loaded when something is trained or evaluated.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.evaluations import plain_readout, reading_of
from raystudy.artifacts.shards import RecipeView, TokenShard, open_tokens, open_view
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import read_weights, write_branch_point, write_weights
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.branch_start import ParentDivergedError, start_of
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.train.evaluation import Evaluation, ValidationDocuments
    from raystudy.train.run import Outcome, Read

    Documents = Mapping[str, ValidationDocuments]  # by digest


@dataclass(frozen=True)
class Workplace:
    """Where a run is made: `validation` maps a set's digest to its name; `about` is in every record's provenance."""

    storage: Storage
    validation: Mapping[str, str]
    device: str
    about: Mapping[str, Any]


def make_decoder_run(run: TrainRun, at: Workplace, asked: Asked | None = None) -> str:
    """Make the run if it has no record, or what it lacks of evaluations; returns its status.

    Kept weights are evaluated. Where a reading that is `asked` lacks, and its weights were not kept, the run is trained
    again for it; its first result stays.
    """
    asked = asked or Asked()
    record = at.storage.runs.read(run.run_id, run=run)
    documents = {digest: _documents(at.storage.root, digest) for digest in at.validation}
    if record is None:
        return _train(run, at, documents, asked)
    if record.status != "out-of-memory":
        _complete(run, at, documents, asked, is_finished=record.status == "finished")
    return record.status


def _train(run: TrainRun, at: Workplace, documents: "Documents", asked: Asked) -> str:
    from raystudy.train.run import Keeping, train

    runs, started_at = at.storage.runs, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    folder = runs.folder(run.run_id)
    runs.write_spec(run)
    keeping = Keeping(
        read=lambda read: _keep_reading(run, at, documents, read),
        branch_point=lambda step, arrays: write_branch_point(folder, step, arrays),
    )
    try:
        view = _view(at.storage.root, run.shards)
        start = start_of(run, at.storage, view, at.device)
        outcome = train(run, view, documents, at.device, asked=asked, keeping=keeping, start=start)
    except ParentDivergedError:
        runs.write_result(run.run_id, _result(run, "diverged", [], {"total": 0.0}, _provenance(at, started_at)))
        return "diverged"
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate" in str(error)):
            raise
        result = _result(run, "out-of-memory", [], {"total": 0.0}, _provenance(at, started_at))
        runs.write_result(run.run_id, result)
        return "out-of-memory"
    runs.write_curve(run.run_id, outcome.curve)
    last = Reading(step=run.settings.steps)
    if outcome.status == "finished":
        write_weights(folder, last.step, outcome.weights)
    for digest, evaluation in outcome.final.items():
        _write_evaluation(run, at, digest, last, evaluation, outcome.unigram[digest])
    result = _result(run, outcome.status, _metrics(at, outcome), outcome.seconds, _provenance(at, started_at))
    details: dict[str, Any] = {
        "moved": outcome.moved,
        "epochs_per_source": outcome.epochs,
        "data_order": outcome.data_order,
    }
    if start is not None:
        details["replayed_steps"] = start.replayed_steps
    runs.write_result(run.run_id, {**result, **details})
    return outcome.status


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


def _metrics(at: Workplace, outcome: "Outcome") -> list[dict[str, Any]]:
    """Rows of name, dataset, value, unit, direction. A diverged run's losses that are not finite are left out."""
    rows = []
    for digest, name in at.validation.items():
        values = [("initial-loss", outcome.initial[digest].nats_per_token, "nats per token")]
        values.append(("unigram-loss", outcome.unigram[digest], "nats per token"))
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
        ]
    return rows


def _keep_reading(run: TrainRun, at: Workplace, documents: "Documents", read: "Read") -> None:
    """Keep what was read on the way: weights while they are small, evaluations, or that there are none."""
    if not read.evaluations:
        about = {"step": read.reading.step, "readout": plain_readout(read.reading.readout), "status": "diverged"}
        for digest in documents:
            at.storage.runs.write_evaluation(run.run_id, {"validation": digest, **about})
        return
    write_weights(at.storage.runs.folder(run.run_id), read.reading.step, read.weights, read.reading.readout)
    for digest, evaluation in read.evaluations.items():
        _write_evaluation(run, at, digest, read.reading, evaluation, read.unigram[digest])


def _write_evaluation(
    run: TrainRun, at: Workplace, digest: str, reading: Reading, evaluation: "Evaluation", floor: float
) -> None:
    at.storage.runs.write_evaluation(
        run.run_id,
        {
            "run_id": run.run_id,
            "validation": digest,
            "step": reading.step,
            "readout": plain_readout(reading.readout),
            "unigram_loss": floor,
            "loss_sum": evaluation.loss_sum.tolist(),
            "num_tokens": evaluation.num_tokens.tolist(),
            "num_bytes": evaluation.num_bytes.tolist(),
        },
    )


def _complete(run: TrainRun, at: Workplace, documents: "Documents", asked: Asked, *, is_finished: bool) -> None:
    """Evaluate kept weights where evaluations lack, or train again for what has no weights."""
    from raystudy.train.process import reset_state
    from raystudy.train.run import Read, evaluate_all, load_weights, unigram_floors

    runs, last = at.storage.runs, Reading(step=run.settings.steps)
    known = runs.read_evaluations(run.run_id)
    readings = [last, *asked.readings] if is_finished else [r for r in asked.readings if r.step < last.step]
    for reading in readings:
        lacking = {d: v for d, v in documents.items() if runs.read_evaluation(run.run_id, d, reading) is None}
        if not lacking:
            continue
        if any(value.get("status") == "diverged" and reading_of(value) == reading for value in known):
            _keep_reading(run, at, documents, Read(reading, {}, {}, {}))
            continue
        is_torn = False
        try:
            arrays = read_weights(runs.folder(run.run_id), reading.step, reading.readout)
        except StorageError as error:
            runs.put_weights_aside(run.run_id, reading.step, str(error), reading.readout)
            arrays, is_torn = None, True
        if arrays is None and reading == last and not is_torn:
            names = ", ".join(at.validation[digest] for digest in lacking)
            raise RaystudyError(
                f"run {run.run_id} must be evaluated on {names}, but its weights were not kept. "
                f"Remove its folder from the storage to train it again"
            )
        if arrays is None:
            # For weights and readings alone: the first result stays, and all that lacks comes with the training.
            _train(run, at, documents, asked)
            return
        reset_state(run.seed)
        floors = unigram_floors(_view(at.storage.root, run.shards), lacking)
        model = load_weights(run, arrays, at.device)
        for digest, evaluation in evaluate_all(model, run, lacking, at.device).items():
            _write_evaluation(run, at, digest, reading, evaluation, floors[digest])


def _provenance(at: Workplace, started_at: str) -> dict[str, Any]:
    from raystudy.train.process import versions

    packages = {**at.about["packages"], **versions()}
    return {**at.about, "packages": packages, "started_at": started_at}


@lru_cache(maxsize=8)
def _view(root: Path, digest: str) -> RecipeView:
    return open_view(root, digest)


@lru_cache(maxsize=64)
def _documents(root: Path, digest: str) -> "ValidationDocuments":
    from raystudy.train.evaluation import ValidationDocuments

    shard: TokenShard = open_tokens(root, digest)
    return ValidationDocuments(shard.documents(), [int(count) for count in shard.document_bytes])
