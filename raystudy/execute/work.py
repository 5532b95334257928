"""A task on this machine: read shards, train its runs, leave a record of each. What a worker of any kind calls.

The worker writes the record itself, so that a finished run is safe whatever then happens to the driver.
"""

import datetime
import platform
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy import __version__
from raystudy.artifacts.files import NO_ROOM, unwritable
from raystudy.artifacts.records import Record
from raystudy.artifacts.shards import RecipeView, TokenShard, open_tokens, open_view
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import read_weights, write_weights
from raystudy.errors import DamagedError, RaystudyError, StorageError, UnwritableError
from raystudy.execute.feature_work import make_feature_runs, numpy_versions
from raystudy.specs.run import FeaturesRun, ProbeRun, Run, TrainRun, read_run

if TYPE_CHECKING:
    from raystudy.train.evaluation import Evaluation, ValidationDocuments
    from raystudy.train.run import Outcome


@dataclass(frozen=True)
class Task:
    """The unit that is scheduled: one or more runs, made in order, each leaving a record of its own.

    `runs` are specs as JSON; `validation` maps a set's digest to its name. `recipe` and `model` are names for
    people; nothing depends on them.
    """

    runs: tuple[str, ...]
    storage: str
    validation: Mapping[str, str]
    device: str = "cpu"
    recipe: str = ""
    model: str = ""

    def specs(self) -> list[Run]:
        """The members' specs."""
        return [read_run(run) for run in self.runs]

    @property
    def task_id(self) -> str:
        """A name for queues and trials: that of the first member."""
        return self.specs()[0].run_id


@dataclass(frozen=True)
class RunReport:
    """How a run ended: its record's status, or "failed" with the first cause.

    `is_unwritable`: the storage cannot be written, so that trying on is of no use. `damaged`: the path of shards that
    are not what was written, which the driver makes anew.
    """

    run_id: str
    status: str
    num_tokens: int = 0
    seconds: float = 0.0
    cause: str = ""
    is_unwritable: bool = False
    damaged: str = ""


def do_task(task: Task) -> list[RunReport]:
    """Make every run of the task that has no record, and evaluate kept weights where only evaluations lack.

    Never raises for what a run may meet: a failure comes back as a report.
    """
    specs = task.specs()
    reports = [_report(task, run) for run in specs if isinstance(run, TrainRun)]
    return [*reports, *_report_features(task, [run for run in specs if not isinstance(run, TrainRun)])]


def _report(task: Task, run: TrainRun) -> RunReport:
    started = time.perf_counter()
    try:
        status = _do(task, run, Storage(Path(task.storage)))
    except Exception as error:
        return _failed(run.run_id, error, time.perf_counter() - started)
    return RunReport(run.run_id, status, run.num_tokens, time.perf_counter() - started)


def _report_features(task: Task, runs: list[FeaturesRun | ProbeRun]) -> list[RunReport]:
    storage = Storage(Path(task.storage))
    storage.runs.mends = True
    left, reports = {run.run_id: run for run in runs}, []
    try:
        for run, status, seconds in make_feature_runs(runs, storage, task.validation, _about(task, numpy_versions())):
            del left[run.run_id]
            reports.append(RunReport(run.run_id, status, run.num_tokens, seconds))
    except Exception as error:
        reports += [_failed(run_id, error) for run_id in left]
    return reports


def _failed(run_id: str, error: Exception, seconds: float = 0.0) -> RunReport:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        error = unwritable(error.filename or "a file", error)
    cause = str(error) if isinstance(error, RaystudyError) else f"{type(error).__name__}: {error}"
    is_unwritable = isinstance(error, UnwritableError)
    damaged = str(error.path) if isinstance(error, DamagedError) else ""
    return RunReport(run_id, "failed", 0, seconds, cause, is_unwritable, damaged)


def failed_reports(task: Task, cause: str) -> list[RunReport]:
    """Reports for a task whose worker died before it could write any; members that have a record are no failures."""
    ledger = Storage(Path(task.storage)).runs
    reports = []
    for run in task.specs():
        record = ledger.read(run.run_id, task.validation)
        if record is None or not _is_measured(run, record, task.validation):
            reports.append(RunReport(run.run_id, "failed", cause=cause))
        else:
            reports.append(RunReport(run.run_id, record.status, run.num_tokens, record.device_seconds))
    return reports


def _is_measured(run: Run, record: Record, validation: Iterable[str]) -> bool:
    if isinstance(run, ProbeRun) or record.status != "finished":
        return True
    return all(record.metric("loss", dataset) is not None for dataset in validation)


def _do(task: Task, run: TrainRun, storage: Storage) -> str:
    storage.runs.mends = True
    record = storage.runs.read(run.run_id, run=run)
    documents = {digest: _documents(task.storage, digest) for digest in task.validation}
    if record is not None:
        if record.status == "finished":
            _evaluate_kept(task, run, storage, documents)
        return record.status
    return _train(task, run, storage, documents)


def _train(task: Task, run: TrainRun, storage: Storage, documents: "Mapping[str, ValidationDocuments]") -> str:
    from raystudy.train.run import train

    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    storage.runs.write_spec(run)
    try:
        outcome = train(run, _view(task.storage, run.shards), documents, task.device)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate" in str(error)):
            raise
        seconds = {"total": 0.0}
        provenance = _provenance(task, started_at)
        storage.runs.write_result(run.run_id, _result(run, "out-of-memory", [], seconds, provenance))
        return "out-of-memory"
    folder = storage.runs.folder(run.run_id)
    storage.runs.write_curve(run.run_id, outcome.curve)
    if outcome.status == "finished":
        write_weights(folder, run.settings.steps, outcome.weights)
    for digest, evaluation in outcome.final.items():
        _write_evaluation(storage, run, digest, evaluation, outcome.unigram[digest])
    result = _result(run, outcome.status, _metrics(task, outcome), outcome.seconds, _provenance(task, started_at))
    details = {"moved": outcome.moved, "epochs_per_source": outcome.epochs, "data_order": outcome.data_order}
    storage.runs.write_result(run.run_id, {**result, **details})
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


def _metrics(task: Task, outcome: "Outcome") -> list[dict[str, Any]]:
    """Rows of name, dataset, value, unit, direction. A diverged run's losses that are not finite are left out."""
    rows = []
    for digest, name in task.validation.items():
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


def _write_evaluation(storage: Storage, run: TrainRun, digest: str, evaluation: "Evaluation", floor: float) -> None:
    storage.runs.write_evaluation(
        run.run_id,
        {
            "run_id": run.run_id,
            "validation": digest,
            "step": run.settings.steps,
            "readout": "last",
            "unigram_loss": floor,
            "loss_sum": evaluation.loss_sum.tolist(),
            "num_tokens": evaluation.num_tokens.tolist(),
            "num_bytes": evaluation.num_bytes.tolist(),
        },
    )


def _evaluate_kept(task: Task, run: TrainRun, storage: Storage, documents: "Mapping[str, ValidationDocuments]") -> None:
    """Evaluate kept weights on validation sets that the run has not seen."""
    from raystudy.train.process import reset_state
    from raystudy.train.run import evaluate_all, load_weights, unigram_floors

    step = run.settings.steps
    lacking = {d: v for d, v in documents.items() if storage.runs.read_evaluation(run.run_id, d, step) is None}
    if not lacking:
        return
    try:
        arrays = read_weights(storage.runs.folder(run.run_id), step)
    except StorageError as error:
        # Trained again for its weights alone: the first result stays, the evaluations come with the training.
        storage.runs.put_weights_aside(run.run_id, step, str(error))
        _train(task, run, storage, documents)
        return
    if arrays is None:
        names = ", ".join(task.validation[digest] for digest in lacking)
        raise RaystudyError(
            f"run {run.run_id} must be evaluated on {names}, but its weights were not kept. "
            f"Remove its folder from the storage to train it again"
        )
    reset_state(run.seed)
    floors = unigram_floors(_view(task.storage, run.shards), lacking)
    model = load_weights(run, arrays, task.device)
    for digest, evaluation in evaluate_all(model, run, lacking, task.device).items():
        _write_evaluation(storage, run, digest, evaluation, floors[digest])


def _provenance(task: Task, started_at: str) -> dict[str, Any]:
    from raystudy.train.process import versions

    return {**_about(task, versions()), "started_at": started_at}


def _about(task: Task, packages: Mapping[str, str]) -> dict[str, Any]:
    return {
        "raystudy": __version__,
        "packages": {"python": platform.python_version(), **packages},
        "device": task.device,
        "host": socket.gethostname(),
    }


@lru_cache(maxsize=8)
def _view(storage: str, digest: str) -> RecipeView:
    return open_view(Path(storage), digest)


@lru_cache(maxsize=64)
def _documents(storage: str, digest: str) -> "ValidationDocuments":
    from raystudy.train.evaluation import ValidationDocuments

    shard: TokenShard = open_tokens(Path(storage), digest)
    return ValidationDocuments(shard.documents(), [int(count) for count in shard.document_bytes])
