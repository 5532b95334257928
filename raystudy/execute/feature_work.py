"""Runs of random-feature models and their probes: train, measure, leave records. Needs numpy alone, no torch.

All members of a task on one recipe are trained together; each leaves a record of its own, as soon as it has ended.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raystudy.artifacts.storage import Storage
from raystudy.artifacts.synthetic import open_synthetic
from raystudy.artifacts.weights import read_weights, write_weights
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.made import Made, now
from raystudy.specs.run import FeaturesProbe, FeaturesRun
from raystudy.specs.synthetic import SyntheticData
from raystudy.study.synthetic import gradient_alignment, moments

UNIT = "squared error"


def make_feature_runs(
    runs: Sequence[FeaturesRun | FeaturesProbe],
    storage: Storage,
    validation: Mapping[str, str],
    about: Mapping[str, Any],
) -> Iterator[Made]:
    """Make every run that has no record, then evaluate those that lack only that; yields each when it has ended.

    A failure is that of its run alone; of a training, that of the runs that were trained together and have not ended.
    `validation` maps a set's digest to its name; `about` is the provenance that all records share.
    """
    held = {digest: open_synthetic(storage.root, digest) for digest in validation}
    todo: dict[str, list[FeaturesRun]] = {}
    others: list[FeaturesRun | FeaturesProbe] = []
    for run in runs:
        try:
            if isinstance(run, FeaturesRun) and storage.runs.read(run.run_id, run=run) is None:
                todo.setdefault(run.shards, []).append(run)
            else:
                others.append(run)
        except StorageError as error:
            yield Made(run, "failed", error=error)
    for members in todo.values():
        started, told = time.perf_counter(), 0.0
        left = {run.run_id: run for run in members}
        try:
            for run, status, seconds in _train(members, storage, validation, held, about):
                del left[run.run_id]
                told += seconds
                yield Made(run, status, seconds, is_made=True)
        except Exception as error:
            share = max(0.0, time.perf_counter() - started - told) / len(left)
            yield from (Made(run, "failed", share, error=error) for run in left.values())
    for run in others:
        started = time.perf_counter()
        try:
            status, problem = _finish(run, storage, validation, held, about), None
        except Exception as error:
            status, problem = "failed", error
        yield Made(run, status, time.perf_counter() - started, error=problem)


def _finish(
    run: FeaturesRun | FeaturesProbe,
    storage: Storage,
    validation: Mapping[str, str],
    held: Mapping[str, SyntheticData],
    about: Mapping[str, Any],
) -> str:
    """Make a probe that has no record, or evaluate the kept head of a finished run; the status."""
    record = storage.runs.read(run.run_id, run=run)
    if isinstance(run, FeaturesProbe):
        if record is None:
            _probe(run, storage, validation, about)
        return "finished" if record is None else record.status
    if record is None:
        raise StorageError(f"the record of run {run.run_id} must stay while it is evaluated, but is there no more")
    if record.status == "finished":
        _evaluate_kept(run, storage, validation, held, about)
    return record.status


def _train(
    runs: Sequence[FeaturesRun],
    storage: Storage,
    validation: Mapping[str, str],
    held: Mapping[str, SyntheticData],
    about: Mapping[str, Any],
) -> Iterator[tuple[FeaturesRun, str, float]]:
    """Train `runs`, all on one recipe; yields each with its status and seconds when its record is written."""
    from raystudy.train.features import train_features

    data, started_at = open_synthetic(storage.root, runs[0].shards), now()
    for run in runs:
        storage.runs.write_spec(run)
    for run, outcome in train_features(runs, data, held):
        storage.runs.write_curve(run.run_id, outcome.curve)
        if outcome.status == "finished":
            write_weights(storage.runs.folder(run.run_id), run.settings.steps, {"head": outcome.weights})
        metrics = [
            _metric(name, digest, validation[digest], value)
            for name, values in (("initial-loss", outcome.initial), ("loss", outcome.final))
            for digest, value in values.items()
        ]
        storage.runs.write_result(
            run.run_id,
            {
                "status": outcome.status,
                "spec": run.model_dump(mode="json"),
                "metrics": metrics,
                "num_tokens": run.num_tokens,
                "seconds": {"total": outcome.seconds},
                "provenance": {**about, "started_at": started_at},
                "moved": outcome.moved,
                "epochs_per_source": [],
            },
        )
        yield run, outcome.status, outcome.seconds


def _probe(run: FeaturesProbe, storage: Storage, validation: Mapping[str, str], about: Mapping[str, Any]) -> None:
    started_at = now()
    storage.runs.write_spec(run)
    data, held = (open_synthetic(storage.root, digest) for digest in (run.shards, run.validation))
    value = gradient_alignment(data, held, run.model.features, run.model.draw)
    name = validation.get(run.validation, "")
    row = _metric(run.probe, run.validation, name, value) | {"unit": "squared", "direction": "higher-is-better"}
    result = {
        "status": "finished",
        "spec": run.model_dump(mode="json"),
        "metrics": [row],
        "num_tokens": 0,
        "seconds": {"total": 0.0},
        "provenance": {**about, "started_at": started_at},
    }
    storage.runs.write_result(run.run_id, result)


def _metric(name: str, digest: str, dataset_name: str, value: float) -> dict[str, Any]:
    about = {"name": name, "dataset": digest, "dataset_name": dataset_name, "value": value}
    return {**about, "unit": UNIT, "direction": "lower-is-better"}


def _evaluate_kept(
    run: FeaturesRun,
    storage: Storage,
    validation: Mapping[str, str],
    held: Mapping[str, SyntheticData],
    about: Mapping[str, Any],
) -> None:
    """The loss of the kept head on validation sets that the run has not seen."""
    step = run.settings.steps
    record = storage.runs.read(run.run_id, held)
    lacking = [digest for digest in held if record is None or record.metric("loss", digest) is None]
    if not lacking:
        return
    folder = storage.runs.folder(run.run_id)
    try:
        arrays = read_weights(folder, step)
    except StorageError as error:
        # Trained again for its weights alone: the first result stays.
        storage.runs.put_weights_aside(run.run_id, step, str(error))
        list(_train([run], storage, validation, held, about))
        arrays = read_weights(folder, step)
    if arrays is None:
        raise RaystudyError(
            f"run {run.run_id} must be evaluated on {len(lacking)} more validation sets, but its weights were not "
            f"kept. Remove its folder from the storage to train it again"
        )
    for digest in lacking:
        loss = float(moments(held[digest], run.model.features, run.model.draw).loss(arrays["head"]))
        sums = {"loss_sum": [loss], "num_tokens": [1], "num_bytes": [0], "unigram_loss": None}
        about = {"run_id": run.run_id, "validation": digest, "step": step, "readout": "last"}
        storage.runs.write_evaluation(run.run_id, {**about, **sums})


def numpy_versions() -> dict[str, str]:
    """Versions of what the numbers rest on."""
    return {"numpy": np.__version__}
