"""The ledger's runs: the only reader and writer of `runs/<run_id>/`.

    spec.json               the run, as asked
    curve.jsonl             one line per logged step
    weights-<step>.safetensors, branch-<step>.safetensors (see weights.py)
    eval/<digest>.json      summed loss, tokens and bytes of every validation document (see evaluations.py)
    attempts/<n>.json       a failure, written by the driver
    result.json             last; complete in itself; the first result wins

A torn or foreign result, evaluation, curve or attempt is reported and counts as not there; a ledger that `mends`
moves it aside, so that it can be made anew.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from raystudy.artifacts.damage import Look, look, set_aside
from raystudy.artifacts.evaluations import (
    check_evaluation,
    evaluated_metrics,
    evaluation_digest,
    evaluation_file,
    reading_of,
)
from raystudy.artifacts.files import StoragePath, parse_json, write_bytes, write_json
from raystudy.artifacts.results import RESULT_FORMAT, Readings, Record, check_spec, parse_result
from raystudy.artifacts.run_files import RunFiles
from raystudy.artifacts.weights import weights_path
from raystudy.errors import StorageError, UnreadableError
from raystudy.specs.base import canonical_json
from raystudy.specs.reading import Reading, Readout
from raystudy.specs.run import Run


class RunLedger:
    """All runs below `root/runs`."""

    def __init__(self, root: StoragePath) -> None:
        self.root = root
        self.files = RunFiles(root)
        self.mends = False  # a launch sets it; what only reads leaves everything as it is
        self.damage: list[str] = []

    def folder(self, run_id: str) -> StoragePath:
        """The folder of one run."""
        return self.root / "runs" / run_id

    def started(self) -> set[str]:
        """Ids of all runs that have been started here: those with a spec or a result; raises UnreadableError."""
        return self.files.started()

    def read(
        self, run_id: str, validation: Iterable[str] = (), run: Run | None = None, readings: Readings = ()
    ) -> Record | None:
        """The record of a finished, diverged or out-of-memory run, else None.

        Evaluations made after the run ended are joined for the `validation` digests asked for, and those of
        `readings`. Where `run` is given the result must be that of this very run, not only under its id.
        """
        record = self._result(run_id, run)
        return None if record is None else self._joined(record, tuple(validation), tuple(readings))

    def _result(self, run_id: str, run: Run | None) -> Record | None:
        name = f"{run_id}/result.json"
        content, seen = self.files.read_seen(name)
        if content is None:
            return None
        shown = self.files.shown(name)
        try:
            record = parse_result(run_id, parse_json(content, shown), shown)
            if run is not None:
                check_spec(record, run, shown)
        except UnreadableError:
            raise
        except StorageError as error:
            if self.put_aside(name, seen, str(error)):
                return None
            return self._result(run_id, run)  # another launch has made it anew meanwhile
        return record

    def _joined(self, record: Record, validation: tuple[str, ...], readings: tuple[Reading, ...]) -> Record:
        found = {reading: self._metrics(record.run_id, validation, reading) for reading in readings}
        return replace(self._with_evaluations(record, validation), readings=found)

    def _evaluation_names(
        self, record: Record, validation: tuple[str, ...], readings: tuple[Reading, ...]
    ) -> list[str]:
        """The files that `_joined` reads."""
        asked = [(dataset, reading) for reading in readings for dataset in validation]
        asked += [(dataset, last) for dataset, last in self._lacking(record, validation)]
        return [_evaluation_name(record.run_id, dataset, reading) for dataset, reading in asked]

    def _with_evaluations(self, record: Record, validation: Iterable[str]) -> Record:
        metrics = dict(record.metrics)
        for dataset, last in self._lacking(record, validation):
            metrics |= self._metrics(record.run_id, [dataset], last)
        return replace(record, metrics=metrics)

    @staticmethod
    def _lacking(record: Record, validation: Iterable[str]) -> list[tuple[str, Reading]]:
        """The sets that the result says nothing of, with the reading whose evaluations may."""
        lacking = [dataset for dataset in validation if ("loss", dataset) not in record.metrics]
        is_probe = record.result["spec"].get("kind") == "probe"  # its one number is final
        if not lacking or record.status != "finished" or is_probe:
            return []
        last = Reading(step=int(record.result["spec"]["settings"]["steps"]))
        return [(dataset, last) for dataset in lacking]

    def _metrics(self, run_id: str, validation: Iterable[str], reading: Reading) -> dict[tuple[str, str], float]:
        """What the evaluations of a reading say, for those of the sets that have one."""
        metrics: dict[tuple[str, str], float] = {}
        for dataset in validation:
            evaluation = self.read_evaluation(run_id, dataset, reading)
            if evaluation is not None:
                metrics |= {(name, dataset): value for name, value in evaluated_metrics(evaluation).items()}
        return metrics

    def read_all(
        self, runs: Mapping[str, Run], validation: Iterable[str] = (), readings: Mapping[str, Readings] | None = None
    ) -> dict[str, Record]:
        """The records there are of `runs`, by run id, with their `readings`."""
        digests, asked = tuple(validation), {run_id: tuple(each) for run_id, each in (readings or {}).items()}
        with self.files.together(len(runs)):
            self.files.fetch(f"{run_id}/result.json" for run_id in runs)
            results = ((run_id, self._result(run_id, run)) for run_id, run in runs.items())
            found = {run_id: record for run_id, record in results if record is not None}
            self.files.fetch(
                name
                for run_id, record in found.items()
                for name in self._evaluation_names(record, digests, asked.get(run_id, ()))
            )
            return {run_id: self._joined(record, digests, asked.get(run_id, ())) for run_id, record in found.items()}

    def put_aside(self, name: str, seen: Look, why: str) -> bool:
        """Report damage of a run's file and, if this ledger mends, keep it aside; False when it is there no more."""
        if not self.mends:
            self.damage.append(f"{why}; it counts as missing until the study is run again")
            return True
        aside = set_aside(self.files.path(name), seen)
        self.files.forget(name)
        if aside is not None:
            self.damage.append(f"{why}; kept as {aside.name} and made again")
        return aside is not None

    def put_weights_aside(self, run_id: str, step: int, why: str, readout: Readout | None = None) -> None:
        """Keep torn weights aside, so that they can be made anew."""
        self.put_file_aside(weights_path(self.folder(run_id), step, readout), why)

    def put_file_aside(self, path: StoragePath, why: str) -> None:
        """Keep aside a file of a run that is of no use, so that it can be made anew."""
        name = str(path).removeprefix(self.files.shown(""))
        self.put_aside(name, look(path), why)

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
        name = f"{run_id}/curve.jsonl"
        content, seen = self.files.read_seen(name)
        try:
            return [] if content is None else [_curve_row(line) for line in content.decode().splitlines()]
        except (ValueError, RecursionError) as error:
            told = f"{self.files.shown(name)} must be a training curve, but is torn or foreign ({error})"
            if self.mends:
                self.put_aside(name, seen, told)
            else:
                way_out = "The result beside it is whole: remove the run's folder to make both again"
                self.damage.append(f"{told}; it is left out. {way_out}")
            return []

    def write_evaluation(self, run_id: str, evaluation: Mapping[str, Any]) -> None:
        """Write one evaluation; an equal one may be there already."""
        name, value = evaluation_file(run_id, evaluation)
        write_json(self.folder(run_id) / "eval" / f"{name}.json", value)

    def read_evaluation(self, run_id: str, validation: str, reading: Reading) -> dict[str, Any] | None:
        """The evaluation of a reading of `run_id` on a validation set, or None."""
        name = _evaluation_name(run_id, validation, reading)
        content, seen = self.files.read_seen(name)
        shown = self.files.shown(name)
        try:
            return (
                None
                if content is None
                else check_evaluation(run_id, validation, reading, parse_json(content, shown), shown)
            )
        except UnreadableError:
            raise
        except StorageError as error:
            if self.put_aside(name, seen, str(error)):
                return None
            return self.read_evaluation(run_id, validation, reading)

    def read_evaluations(self, run_id: str) -> list[dict[str, Any]]:
        """All evaluations of a run; a torn or foreign one is told and left out."""
        found = []
        names = sorted(name for name in self.files.names(run_id, "eval") if name.endswith(".json"))
        self.files.fetch(f"{run_id}/eval/{name}" for name in names)
        for name in (f"{run_id}/eval/{name}" for name in names):
            content, seen = self.files.read_seen(name)
            shown = self.files.shown(name)
            try:
                value = parse_json(content or b"", shown)
                reading = reading_of(value)
                expected = _evaluation_name(run_id, value["validation"], reading)
            except UnreadableError:
                raise
            except (StorageError, AttributeError, KeyError, TypeError, ValueError) as error:
                self.put_aside(name, seen, f"{shown} must be an evaluation ({error})")
                continue
            known = self.read_evaluation(run_id, value["validation"], reading) if name == expected else None
            found += [known] if known is not None else []
        return found

    def write_result(self, run_id: str, result: Mapping[str, Any]) -> bool:
        """Write the result that ends a run; False when another result was there first."""
        value = {"format": RESULT_FORMAT, "run_id": run_id, **result}
        return write_json(self.folder(run_id) / "result.json", value, exclusive=True)

    def write_attempt(self, run_id: str, attempt: Mapping[str, Any]) -> None:
        """Note one failed attempt under the next free number."""
        number = len(self._attempts(run_id)) + 1
        while not write_json(self.folder(run_id) / "attempts" / f"{number}.json", attempt, exclusive=True):
            number += 1

    def read_attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The failed attempts of a run, oldest first, without torn ones, which are reported."""
        attempts = []
        for name in self._attempts(run_id):
            content, seen = self.files.read_seen(name)
            try:
                value = None if content is None else parse_json(content, self.files.shown(name))
                if not isinstance(value, dict):
                    raise StorageError(f"{self.files.shown(name)} must be an attempt, but is not")
                attempts.append(value)
            except UnreadableError:
                raise
            except StorageError as error:
                self.put_aside(name, seen, str(error))
        return attempts

    def read_all_attempts(
        self, run_ids: Collection[str], compacted: StoragePath | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """`read_attempts` of each of many runs, of a remote storage from one listing; `compacted`: where copies lie."""
        with self.files.together(len(run_ids), compacted):
            self.files.fetch(name for run_id in run_ids for name in self._attempts(run_id))
            return {run_id: self.read_attempts(run_id) for run_id in run_ids}

    def _attempts(self, run_id: str) -> list[str]:
        names = (name for name in self.files.names(run_id, "attempts") if name.endswith(".json"))
        numbers = sorted(int(stem) for name in names if (stem := name.removesuffix(".json")).isdigit())
        return [f"{run_id}/attempts/{number}.json" for number in numbers]


def failures_among(attempts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those attempts that count as failures of their run: not the loss of a node, nor what only says to take less.

    "loss" and "begun_again" (within a task that made it) are written by a launch (execute/losses.py),
    "micro_batch_tokens" by ranks that ran out of memory and go on with smaller micro-batches (execute/ranks_study.py).
    """
    others = {"begun_again", "micro_batch_tokens"}
    return [each for each in attempts if not each.get("loss") and others.isdisjoint(each)]


def _evaluation_name(run_id: str, validation: str, reading: Reading) -> str:
    return f"{run_id}/eval/{evaluation_digest(validation, reading)}.json"


def _curve_row(line: str) -> dict[str, float | None]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"a row is a {type(row).__name__}")
    return row
