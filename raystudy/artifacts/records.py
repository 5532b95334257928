"""The ledger's runs: the only reader and writer of `runs/<run_id>/`.

    spec.json               the run, as asked
    curve.jsonl             one line per logged step
    weights-<step>.safetensors
    eval/<digest>.json      summed loss, tokens and bytes of every validation document
    attempts/<n>.json       a failure, written by the driver
    result.json             last; complete in itself; the first result wins

A torn or foreign result, evaluation, curve or attempt is reported and counts as not there; a ledger that `mends`
moves it aside, so that it can be made anew.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raystudy.artifacts.damage import Look, look, set_aside
from raystudy.artifacts.files import json_files, names_in, read_json, unreadable, write_bytes, write_json
from raystudy.artifacts.weights import weights_path
from raystudy.errors import StorageError, UnreadableError
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
        """Ids of all runs that have been started here: those with a spec or a result; raises UnreadableError."""
        folders = names_in(self.root / "runs")
        return {name for name in folders if not {"spec.json", "result.json"}.isdisjoint(names_in(self.folder(name)))}

    def read(self, run_id: str, validation: Iterable[str] = (), run: Run | None = None) -> Record | None:
        """The record of a finished, diverged or out-of-memory run, else None.

        Evaluations made after the run ended are joined for the `validation` digests asked for. Where `run` is given
        the result must be that of this very run, not only under its id.
        """
        path = self.folder(run_id) / "result.json"
        seen = look(path)
        try:
            result = read_json(path)
            record = None if result is None else parse_result(run_id, result, path)
            if record is not None and run is not None:
                _check_spec(record, run, path)
        except UnreadableError:
            raise
        except StorageError as error:
            if self._put_aside(path, seen, str(error)):
                return None
            return self.read(run_id, validation, run)  # another launch has made it anew meanwhile
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
                    if evaluation.get("trigram_loss") is not None:
                        metrics["trigram-loss", dataset] = evaluation["trigram_loss"]
        return replace(record, metrics=metrics)

    def read_all(self, runs: Mapping[str, Run], validation: Iterable[str] = ()) -> dict[str, Record]:
        """The records there are of `runs`, by run id."""
        digests = tuple(validation)
        records = ((run_id, self.read(run_id, digests, run)) for run_id, run in runs.items())
        return {run_id: record for run_id, record in records if record is not None}

    def _put_aside(self, path: Path, seen: Look, why: str) -> bool:
        """Report damage and, if this ledger mends, keep it aside; False when the damage is there no more."""
        if not self.mends:
            self.damage.append(f"{why}; it counts as missing until the study is run again")
            return True
        aside = set_aside(path, seen)
        if aside is not None:
            self.damage.append(f"{why}; kept as {aside.name} and made again")
        return aside is not None

    def put_weights_aside(self, run_id: str, step: int, why: str) -> None:
        """Keep torn weights aside, so that they can be made anew."""
        path = weights_path(self.folder(run_id), step)
        self._put_aside(path, look(path), why)

    def write_spec(self, run: Run) -> None:
        """Leave the run's spec before it starts."""
        write_json(self.folder(run.run_id) / "spec.json", json.loads(canonical_json(run)), durable=False)

    def write_curve(self, run_id: str, rows: Iterable[Mapping[str, float | None]]) -> None:
        """Write the training curve, one JSON object a line; NaN and infinities become null."""
        finite = ({k: v if v is not None and math.isfinite(v) else None for k, v in row.items()} for row in rows)
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in finite)
        write_bytes(self.folder(run_id) / "curve.jsonl", text.encode(), durable=False)

    def read_curve(self, run_id: str) -> list[dict[str, float | None]]:
        """The rows of the training curve; none when there is no curve, or a torn one, which is reported."""
        path = self.folder(run_id) / "curve.jsonl"
        seen = look(path)
        try:
            return [_curve_row(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, RecursionError) as error:
            told = f"{path} must be a training curve, but is torn or foreign ({error})"
            if self.mends:
                self._put_aside(path, seen, told)
            else:
                way_out = "The result beside it is whole: remove the run's folder to make both again"
                self.damage.append(f"{told}; it is left out. {way_out}")
            return []

    def write_evaluation(self, run_id: str, evaluation: Mapping[str, Any]) -> None:
        """Write one evaluation; an equal one may be there already."""
        name = evaluation_digest(evaluation["validation"], evaluation["step"])
        value = {"format": EVALUATION_FORMAT, **evaluation, "run_id": run_id}
        write_json(self.folder(run_id) / "eval" / f"{name}.json", value)

    def read_evaluation(self, run_id: str, validation: str, step: int) -> dict[str, Any] | None:
        """The evaluation of `run_id` on a validation set at `step`, or None."""
        path = self.folder(run_id) / "eval" / f"{evaluation_digest(validation, step)}.json"
        seen = look(path)
        try:
            value = read_json(path)
            return None if value is None else _check_evaluation(run_id, validation, step, value, path)
        except UnreadableError:
            raise
        except StorageError as error:
            if self._put_aside(path, seen, str(error)):
                return None
            return self.read_evaluation(run_id, validation, step)

    def read_evaluations(self, run_id: str) -> list[dict[str, Any]]:
        """All evaluations of a run; a torn or foreign one is told and left out."""
        found = []
        for path in json_files(self.folder(run_id) / "eval"):
            seen = look(path)
            try:
                value = read_json(path)
                name = evaluation_digest(value["validation"], value["step"])
            except UnreadableError:
                raise
            except (StorageError, KeyError, TypeError) as error:
                self._put_aside(path, seen, f"{path} must be an evaluation ({error})")
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
        number = len(self._attempt_paths(run_id)) + 1
        while not write_json(self.folder(run_id) / "attempts" / f"{number}.json", attempt, exclusive=True):
            number += 1

    def read_attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The failed attempts of a run, oldest first, without torn ones, which are reported."""
        attempts = []
        for path in self._attempt_paths(run_id):
            seen = look(path)
            try:
                value = read_json(path)
                if not isinstance(value, dict):
                    raise StorageError(f"{path} must be an attempt, but is not")
                attempts.append(value)
            except UnreadableError:
                raise
            except StorageError as error:
                self._put_aside(path, seen, str(error))
        return attempts

    def _attempt_paths(self, run_id: str) -> list[Path]:
        paths = json_files(self.folder(run_id) / "attempts")
        return sorted((path for path in paths if path.stem.isdigit()), key=lambda path: int(path.stem))


def _check_format(value: Any, wanted: str, kind: str, path: object) -> None:
    """Raises StorageError when `value` is not a JSON object of the format `wanted`."""
    found = value.get("format") if isinstance(value, dict) else type(value).__name__
    if isinstance(value, dict) and found == wanted:
        return
    name, number = wanted.split("/")
    newer = re.fullmatch(rf"{name}/([0-9]{{1,9}})", found) if isinstance(found, str) else None
    if newer and int(newer[1]) > int(number):
        raise StorageError(
            f"{path} must be {kind} of format {wanted}, but a newer raystudy wrote it ({found}); read it with that one"
        )
    raise StorageError(f"{path} must be {kind} of format {wanted}, but is {found!r}")


def _curve_row(line: str) -> dict[str, float | None]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"a row is a {type(row).__name__}")
    return row


def _check_evaluation(run_id: str, validation: str, step: int, value: Any, path: Path) -> dict[str, Any]:
    """The evaluation in `value`; raises StorageError with what is wrong."""
    _check_format(value, EVALUATION_FORMAT, "an evaluation", path)
    about = {"run_id": run_id, "validation": validation, "step": step}
    wrong = [f"{key} {value.get(key)!r}" for key, wanted in about.items() if value.get(key) != wanted]
    if wrong:
        raise StorageError(f"{path} must be that of run {run_id} on {validation}, but has {', '.join(wrong)}")
    try:
        totals = [sum(map(float, value[name])) for name in ("loss_sum", "num_tokens", "num_bytes")]
        is_whole = all(map(math.isfinite, totals)) and totals[1] > 0 and totals[2] >= 0 and "unigram_loss" in value
    except (KeyError, TypeError, ValueError):
        is_whole = False
    if not is_whole:
        raise StorageError(f"{path} must hold losses, tokens and bytes of documents, but is damaged")
    return dict(value)


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
    _check_format(result, RESULT_FORMAT, "a result", path)
    if result.get("run_id") != run_id:
        raise StorageError(f"{path} must hold the result of run {run_id}, but holds that of {result.get('run_id')!r}")
    if result.get("status") not in DONE:
        raise StorageError(f"{path} must have a status of {', '.join(DONE)}, but has {result.get('status')!r}")
    try:
        metrics = {(row["name"], row["dataset"]): float(row["value"]) for row in result["metrics"]}
        float(result["seconds"]["total"])
        if not isinstance(result["spec"], dict):
            raise TypeError("its spec is no object")
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} must hold metrics and seconds, but is damaged ({error!r})") from error
    return Record(run_id, result["status"], metrics, result)
