"""Runs of decoders: read shards, train, leave a record; or evaluate kept weights where only evaluations lack.

The same for every kind of worker. torch is loaded when something is trained or evaluated.
"""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raystudy.artifacts.checkpoints import remove_checkpoint
from raystudy.artifacts.shards import RecipeView, TokenShard, open_tokens, open_view
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import read_weights, write_weights
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.downstream_work import answer_at_end, answer_kept, open_items_once
from raystudy.execute.floor_work import trigram_floors
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.train.checkpoint import Checkpoints
    from raystudy.train.evaluation import Evaluation, ValidationDocuments
    from raystudy.train.run import Outcome

    Documents = Mapping[str, ValidationDocuments]  # by digest


@dataclass(frozen=True)
class Workplace:
    """Where a run is made: `validation` maps a set's digest to its name; `about` is in every record's provenance.

    `downstream` maps the digest of a downstream task's items to its name. `notes` takes what a person should know of
    the run, beside its status.
    """

    storage: Storage
    validation: Mapping[str, str]
    device: str
    about: Mapping[str, Any]
    micro_batch_tokens: int | Literal["auto"] = "auto"
    checkpoint_minutes: float | None = None
    downstream: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def make_decoder_run(run: TrainRun, at: Workplace) -> tuple[str, bool]:
    """Make the run if it has no record, or evaluate its kept weights on new validation sets.

    Returns its status, and whether it was made now.
    """
    record = at.storage.runs.read(run.run_id, run=run)
    documents = {digest: _documents(at.storage.root, digest) for digest in at.validation}
    for digest in at.downstream:
        open_items_once(at.storage.root, digest)  # what is damaged is told before anything is trained
    if record is not None:
        if record.status == "finished":
            _evaluate_kept(run, at, documents)
            again = partial(_train, run, at, documents)
            answer_kept(run, at.storage, at.downstream, at.device, again)
        return record.status, False
    return _train(run, at, documents), True


def _train(run: TrainRun, at: Workplace, documents: "Documents") -> str:
    from raystudy.train.micro_batches import is_out_of_memory
    from raystudy.train.run import Means, train

    runs, started_at = at.storage.runs, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    runs.write_spec(run)
    try:
        means = Means(at.micro_batch_tokens, _checkpoints(run, at))
        outcome = train(run, _view(at.storage.root, run.shards), documents, at.device, means)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        result = _result(run, "out-of-memory", [], {"total": 0.0}, _provenance(at, started_at))
        runs.write_result(run.run_id, {**result, "cause": f"{type(error).__name__}: {error}"})
        return "out-of-memory"
    runs.write_curve(run.run_id, outcome.curve)
    if outcome.status == "finished":
        write_weights(runs.folder(run.run_id), run.settings.steps, outcome.weights)
    trigram = trigram_floors(at.storage.root, _view(at.storage.root, run.shards), documents)
    for digest, evaluation in outcome.final.items():
        _write_evaluation(run, at, digest, evaluation, outcome.unigram[digest], trigram[digest])
    metrics, seconds = _metrics(at, outcome, trigram), dict(outcome.seconds)
    if outcome.status == "finished" and at.downstream:
        rows, took = answer_at_end(run, at.storage, at.downstream, outcome.weights, at.device)
        metrics, seconds = metrics + rows, {**seconds, "downstream": took, "total": seconds["total"] + took}
    at.notes.extend([means.checkpoints.note] if means.checkpoints and means.checkpoints.note else [])
    provenance = {**_provenance(at, started_at), **outcome.made, "notes": list(at.notes)}
    result = _result(run, outcome.status, metrics, seconds, provenance)
    details = {"moved": outcome.moved, "epochs_per_source": outcome.epochs, "data_order": outcome.data_order}
    runs.write_result(run.run_id, {**result, **details, **({"cause": outcome.cause} if outcome.cause else {})})
    remove_checkpoint(runs.folder(run.run_id))
    return outcome.status


def _checkpoints(run: TrainRun, at: Workplace) -> "Checkpoints | None":
    from raystudy.train.checkpoint import Checkpoints

    if at.checkpoint_minutes is None:
        return None
    return Checkpoints(at.storage.runs.folder(run.run_id), run.run_id, at.device, 60 * at.checkpoint_minutes)


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


def _write_evaluation(
    run: TrainRun, at: Workplace, digest: str, evaluation: "Evaluation", floor: float, trigram: float | None
) -> None:
    at.storage.runs.write_evaluation(
        run.run_id,
        {
            "run_id": run.run_id,
            "validation": digest,
            "step": run.settings.steps,
            "readout": "last",
            "unigram_loss": floor,
            "trigram_loss": trigram,
            "loss_sum": evaluation.loss_sum.tolist(),
            "num_tokens": evaluation.num_tokens.tolist(),
            "num_bytes": evaluation.num_bytes.tolist(),
        },
    )


def _evaluate_kept(run: TrainRun, at: Workplace, documents: "Documents") -> None:
    """Evaluate kept weights on validation sets that the run has not seen."""
    from raystudy.train.process import reset_state
    from raystudy.train.run import evaluate_all, load_weights, unigram_floors

    runs, step = at.storage.runs, run.settings.steps
    lacking = {d: v for d, v in documents.items() if runs.read_evaluation(run.run_id, d, step) is None}
    if not lacking:
        return
    try:
        arrays = read_weights(runs.folder(run.run_id), step)
    except StorageError as error:
        # Trained again for its weights alone: the first result stays, the evaluations come with the training.
        runs.put_weights_aside(run.run_id, step, str(error))
        _train(run, at, documents)
        return
    if arrays is None:
        names = ", ".join(at.validation[digest] for digest in lacking)
        raise RaystudyError(
            f"run {run.run_id} must be evaluated on {names}, but its weights were not kept. "
            f"Remove its folder from the storage to train it again"
        )
    reset_state(run.seed)
    view = _view(at.storage.root, run.shards)
    floors, trigram = unigram_floors(view, lacking), trigram_floors(at.storage.root, view, lacking)
    model = load_weights(run, arrays, at.device)
    for digest, evaluation in evaluate_all(model, run, lacking, at.device).items():
        if not math.isfinite(evaluation.nats_per_token):
            raise RaystudyError(
                f"the loss of run {run.run_id} on {at.validation[digest]} must be finite, but is "
                f"{evaluation.nats_per_token}: its weights are no use there. Leave that validation set out"
            )
        _write_evaluation(run, at, digest, evaluation, floors[digest], trigram[digest])


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
    return ValidationDocuments(shard.documents(), [int(count) for count in shard.document_bytes], shard.overlap)
