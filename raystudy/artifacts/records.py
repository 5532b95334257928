"""The ledger's runs: the only reader and writer of `runs/<run_id>/`.

    spec.json               the run, as asked
    curve.jsonl             one line per logged step
    weights-<step>.safetensors
    eval/<digest>.json      summed loss, tokens and bytes of every validation document
    attempts/<n>.json       a failure, written by the driver
    result.json             last; complete in itself; the first result wins

A torn or foreign result or evaluation is reported and counts as not there; a ledger that `mends` moves it aside,
so that it can be made anew.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import read_json, write_bytes, write_json
from raystudy.errors import StorageError
from raystudy.specs.base import canonical_json, digest
from raystudy.specs.run import Run, read_run

RESULT_FORMAT = "raystudy-run/1"
EVALUATION_FORMAT = "raystudy-evaluation/1"
DONE = ("finished", "diverged", "out-of-memory")  # a failed run is never done


@dataclass(frozen=True)
class Record:
    """What a run left behind. `metrics` maps (name, dataset) to a value; dataset is a validation set's digest."""

    run_id: str
    status: str
    metrics: Mapping[tuple[str, str], float]
    result: Mapping[str, Any]

    def metric(self, name: str, dataset: str) -> float | None:
        """One final metric, or None when the run was not evaluated on `dataset`."""
        return self.metrics.get((name, dataset))

    @property
    def device_seconds(self) -> float:
        """Wall time of the run on its device."""
        return float(self.result["seconds"]["total"])


def evaluation_digest(validation: str, step: int) -> str:
    """Names an evaluation of the last weights at `step` on the validation set with digest `validation`."""
    return digest({"validation": validation, "step": step, "readout": "last"})


class RunLedger:
    """All runs below `root/runs`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mends = False  # a launch sets it; what only reads leaves everything as it is
        self.damage: list[str] = []

    def folder(self, run_id: str) -> Path:
        """The folder of one run."""
        return self.root / "runs" / run_id

    def started(self) -> set[str]:
        """Ids of all runs that have been started here: those with a spec or a result."""
        names = ("spec.json", "result.json")
        folders = (self.root / "runs").glob("*/")
        return {folder.name for folder in folders if any((folder / name).exists() for name in names)}

    def read(self, run_id: str, validation: Iterable[str] = (), run: Run | None = None) -> Record | None:
        """The record of a finished, diverged or out-of-memory run, else None.

        Evaluations made after the run ended are joined for the `validation` digests asked for. Where `run` is given
        the result must be that of this very run, not only under its id.
        """
        path = self.folder(run_id) / "result.json"
        try:
            result = read_json(path)
            record = None if result is None else parse_result(run_id, result, path)
            if record is not None and run is not None:
                _check_spec(record, run, path)
        except StorageError as error:
            self._put_aside(path, str(error))
            return None
        return record if record is None else self._with_evaluations(record, validation)

    def _with_evaluations(self, record: Record, validation: Iterable[str]) -> Record:
        lacking = [dataset for dataset in validation if ("loss", dataset) not in record.metrics]
        is_probe = record.result["spec"].get("kind") == "probe"  # its one number is final
        if not lacking or record.status != "finished" or is_probe:
            return record
        metrics = dict(record.metrics)
        step = int(record.result["spec"]["settings"]["steps"])
        for dataset in lacking:
            evaluation = self.read_evaluation(record.run_id, dataset, step)
            if evaluation is not None:
                loss, tokens = sum(evaluation["loss_sum"]), sum(evaluation["num_tokens"])
                metrics["loss", dataset] = loss / tokens
                if sum(evaluation["num_bytes"]):  # a synthetic set has no text, nor a unigram loss
                    metrics["bits-per-byte", dataset] = loss / math.log(2) / sum(evaluation["num_bytes"])
                    metrics["unigram-loss", dataset] = evaluation["unigram_loss"]
        return replace(record, metrics=metrics)

    def read_all(self, runs: Mapping[str, Run], validation: Iterable[str] = ()) -> dict[str, Record]:
        """The records there are of `runs`, by run id."""
        digests = tuple(validation)
        records = ((run_id, self.read(run_id, digests, run)) for run_id, run in runs.items())
        return {run_id: record for run_id, record in records if record is not None}

    def _put_aside(self, path: Path, why: str) -> None:
        if not self.mends:
            self.damage.append(f"{why}; it counts as missing until the study is run again")
            return
        aside = path.with_name(f"{path.name}.bad-{len(list(path.parent.glob(f'{path.name}.bad-*')))}")
        try:
            path.rename(aside)
        except OSError as error:
            raise StorageError(f"{why}; it cannot be moved aside: {error.strerror}") from error
        self.damage.append(f"{why}; kept as {aside.name} and made again")

    def write_spec(self, run: Run) -> None:
        """Leave the run's spec before it starts."""
        write_json(self.folder(run.run_id) / "spec.json", json.loads(canonical_json(run)))

    def write_curve(self, run_id: str, rows: Iterable[Mapping[str, float | None]]) -> None:
        """Write the training curve, one JSON object a line; NaN and infinities become null."""
        finite = ({k: v if v is not None and math.isfinite(v) else None for k, v in row.items()} for row in rows)
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in finite)
        write_bytes(self.folder(run_id) / "curve.jsonl", text.encode())

    def read_curve(self, run_id: str) -> list[dict[str, float | None]]:
        """The rows of the training curve; none when there is no curve."""
        path = self.folder(run_id) / "curve.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write_evaluation(self, run_id: str, evaluation: Mapping[str, Any]) -> None:
        """Write one evaluation; an equal one may be there already."""
        name = evaluation_digest(evaluation["validation"], evaluation["step"])
        write_json(self.folder(run_id) / "eval" / f"{name}.json", {"format": EVALUATION_FORMAT, **evaluation})

    def read_evaluation(self, run_id: str, validation: str, step: int) -> dict[str, Any] | None:
        """The evaluation of `run_id` on a validation set at `step`, or None."""
        path = self.folder(run_id) / "eval" / f"{evaluation_digest(validation, step)}.json"
        try:
            value = read_json(path)
            if value is not None and (not isinstance(value, dict) or value.get("format") != EVALUATION_FORMAT):
                raise StorageError(f"{path} must be an evaluation of format {EVALUATION_FORMAT}, but is not")
        except StorageError as error:
            self._put_aside(path, str(error))
            return None
        return value

    def read_evaluations(self, run_id: str) -> list[dict[str, Any]]:
        """All evaluations of a run; a torn or foreign one is told and left out."""
        found = []
        for path in sorted((self.folder(run_id) / "eval").glob("*.json")):
            try:
                value = read_json(path)
                name = evaluation_digest(value["validation"], value["step"])
            except (StorageError, KeyError, TypeError) as error:
                self._put_aside(path, f"{path} must be an evaluation ({error})")
                continue
            known = self.read_evaluation(run_id, value["validation"], value["step"]) if path.stem == name else None
            found += [known] if known is not None else []
        return found

    def write_result(self, run_id: str, result: Mapping[str, Any]) -> bool:
        """Write the result that ends a run; False when another result was there first."""
        value = {"format": RESULT_FORMAT, "run_id": run_id, **result}
        return write_json(self.folder(run_id) / "result.json", value, exclusive=True)

    def write_attempt(self, run_id: str, attempt: Mapping[str, Any]) -> None:
        """Note one failed attempt under the next free number."""
        number = len(self.read_attempts(run_id)) + 1
        while not write_json(self.folder(run_id) / "attempts" / f"{number}.json", attempt, exclusive=True):
            number += 1

    def read_attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The failed attempts of a run, oldest first."""
        paths = (self.folder(run_id) / "attempts").glob("*.json")
        ordered = sorted((path for path in paths if path.stem.isdigit()), key=lambda path: int(path.stem))
        return [read_json(path) for path in ordered]


def _check_spec(record: Record, run: Run, path: Path) -> None:
    """Raises StorageError unless the result's spec is that of `run`."""
    spec = record.result.get("spec")
    # Written by this version the two are equal, which is a tenth of the work; fields added since have defaults.
    if spec == run.model_dump(mode="json"):
        return
    try:
        found = read_run(json.dumps(spec)).run_id
    except ValueError as error:
        raise StorageError(f"{path} must hold the spec of run {run.run_id}, but holds no spec") from error
    if found != run.run_id:
        raise StorageError(f"{path} must hold the result of run {run.run_id}, but its spec is that of run {found}")


def parse_result(run_id: str, result: Any, path: object) -> Record:
    """Check a result, which came from the place `path`; raises StorageError with what is wrong."""
    if not isinstance(result, dict) or result.get("format") != RESULT_FORMAT:
        found = result.get("format") if isinstance(result, dict) else type(result).__name__
        raise StorageError(f"{path} must be a result of format {RESULT_FORMAT}, but is {found!r}")
    if result.get("run_id") != run_id:
        raise StorageError(f"{path} must hold the result of run {run_id}, but holds that of {result.get('run_id')!r}")
    if result.get("status") not in DONE:
        raise StorageError(f"{path} must have a status of {', '.join(DONE)}, but has {result.get('status')!r}")
    try:
        metrics = {(row["name"], row["dataset"]): float(row["value"]) for row in result["metrics"]}
        float(result["seconds"]["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} must hold metrics and seconds, but is damaged ({error!r})") from error
    return Record(run_id, result["status"], metrics, result)
