"""Probes on text: of decoders at initialisation or at kept weights, and of n-grams. Leaves a record of each.

Probes that differ in their validation set alone are measured together. torch is loaded when a decoder is measured.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from raystudy.artifacts.shards import open_tokens
from raystudy.artifacts.weights import read_weights
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.made import Made, now
from raystudy.execute.workplace import Workplace
from raystudy.specs.base import digest
from raystudy.specs.run import AlignmentProbe, KeptWeights, LikenessProbe, SharpnessProbe
from raystudy.study.ngrams import cosine, cross_entropy

if TYPE_CHECKING:
    from raystudy.train.probes.measure import Measurement, Weights

TextProbe = AlignmentProbe | SharpnessProbe | LikenessProbe


def make_probes(runs: Sequence[TextProbe], at: Workplace) -> Iterator[Made]:
    """Make every probe that has no record; yields each when it has ended. Probes measured together fail together."""
    groups: dict[str, list[AlignmentProbe | SharpnessProbe]] = {}
    for run in runs:
        started = time.perf_counter()
        try:
            record = at.storage.runs.read(run.run_id, run=run)
            if record is not None:
                yield Made(run, record.status)
            elif isinstance(run, LikenessProbe):
                yield Made(run, *_likeness(run, at), is_made=True)
            else:
                groups.setdefault(together(run), []).append(run)
        except Exception as error:
            yield Made(run, "failed", time.perf_counter() - started, error=error)
    for members in groups.values():
        started = time.perf_counter()
        try:
            for run, (status, seconds) in zip(members, _decoder_probes(members, at), strict=True):
                yield Made(run, status, seconds, is_made=status in ("finished", "diverged"))
        except Exception as error:
            share = (time.perf_counter() - started) / len(members)
            yield from (Made(run, "failed", share, error=error) for run in members)


def together(run: AlignmentProbe | SharpnessProbe) -> str:
    """The same for probes that differ in their validation set at most."""
    return digest({**run.model_dump(mode="json"), "validation": None})


def _likeness(run: LikenessProbe, at: Workplace) -> tuple[str, float]:
    started_at, started = now(), time.perf_counter()
    at.storage.runs.write_spec(run)
    view, documents = at.view(run.shards), open_tokens(at.storage.root, run.validation).documents()
    measure = {"cross-entropy": cross_entropy, "cosine": cosine}[run.measure]
    value, num_tokens = measure(view, documents, run.order, run.tokens)
    is_loss = run.measure == "cross-entropy"
    row = {
        "name": "likeness",
        "dataset": run.validation,
        "value": value,
        "unit": "nats per token" if is_loss else "cosine",
        "direction": "lower-is-better" if is_loss else "higher-is-better",
    }
    seconds = time.perf_counter() - started
    provenance = {**at.about, "packages": {**at.about["packages"], "numpy": np.__version__}, "started_at": started_at}
    _write(run, at, "finished", [row], num_tokens, seconds, provenance)
    return "finished", seconds


def _decoder_probes(runs: Sequence[AlignmentProbe | SharpnessProbe], at: Workplace) -> list[tuple[str, float]]:
    from raystudy.train.micro_batches import is_out_of_memory
    from raystudy.train.probes.measure import measure_probes
    from raystudy.train.process import versions

    started_at = now()
    for run in runs:
        at.storage.runs.write_spec(run)
    documents = {run.validation: at.documents_of(run.validation) for run in runs if isinstance(run, AlignmentProbe)}
    found: Sequence[Measurement | None]
    try:
        found = measure_probes(runs, at.view(runs[0].shards), documents, _weights(runs[0], at), at.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        found = [None] * len(runs)
    provenance = {**at.about, "packages": {**at.about["packages"], **versions()}, "started_at": started_at}
    ends = []
    for run, own in zip(runs, found, strict=True):
        status, seconds = ("out-of-memory", 0.0) if own is None else (own.status, own.seconds)
        rows = [] if own is None else [asdict(row) for row in own.rows]
        num_tokens, details = (0, {}) if own is None else (own.num_tokens, own.details)
        _write(run, at, status, rows, num_tokens, seconds, provenance, details)
        ends.append((status, seconds))
    return ends


def _weights(run: AlignmentProbe | SharpnessProbe, at: Workplace) -> "Weights | None":
    """The kept weights that the probe reads, or None at initialisation."""
    if not isinstance(run.weights, KeptWeights):
        return None
    source, step = run.weights.run_id, run.weights.step
    try:
        arrays = read_weights(at.storage.runs.folder(source), step)
    except StorageError as error:
        at.storage.runs.put_weights_aside(source, step, str(error))
        arrays = None
    if arrays is None:
        raise RaystudyError(
            f"a probe must read the weights of run {source} after {step} steps, but they were not kept or are torn. "
            f"Remove that run's folder from the storage to train it again, or name a step whose weights are kept"
        )
    return arrays


def _write(
    run: TextProbe,
    at: Workplace,
    status: str,
    rows: Sequence[Mapping[str, Any]],
    num_tokens: int,
    seconds: float,
    provenance: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
) -> None:
    """The result of a probe, its rows with the names of their datasets."""
    metrics = [{**row, "dataset_name": at.validation.get(row["dataset"], "")} for row in rows]
    result = {"status": status, "spec": run.model_dump(mode="json"), "metrics": metrics, "num_tokens": num_tokens}
    more = {"seconds": {"total": seconds}, "provenance": dict(provenance), "probe": dict(details or {})}
    at.storage.runs.write_result(run.run_id, {**result, **more})
