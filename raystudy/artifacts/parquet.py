"""A study's records in one Parquet file: the only reader and writer of format `raystudy-export/1`.

One row per record: run_id, status, the spec and the result as JSON, every evaluation and failed attempt as JSON, the
training curve as JSON lines; and, for people and other tools, recipe, model, lr and seed, which nothing reads back. The
file's metadata hold the format, the study's resolved copy with the digests of its shards, its text, its lock and what
it has frozen. Weights and shards are not in it. What comes from a file is checked before it is believed; none of it is
ever a path.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raystudy.artifacts.downstream import answers_problem
from raystudy.artifacts.evaluations import evaluation_problem
from raystudy.artifacts.results import Record, parse_result
from raystudy.artifacts.study_lock import parse_lock
from raystudy.errors import DataError, StorageError
from raystudy.specs.base import canonical_json
from raystudy.specs.run import Run, read_run
from raystudy.specs.study import StudySpec

if TYPE_CHECKING:
    import pyarrow

EXPORT_FORMAT = "raystudy-export/1"
_DIGEST = re.compile(r"[0-9a-f]{32}")
_TEXTS = ("run_id", "status", "spec", "result", "curve")
_LISTS = ("evaluations", "attempts")
_ANSWERS = "answers"  # to downstream tasks; exports made before there were any have no such column
_METADATA = ("format", "study", "study_text", "lock", "frozen")


@dataclass(frozen=True)
class ExportedRun:
    """One record with all that lies beside it but weights. `about` is for people: recipe, model, lr, seed."""

    run: Run
    record: Record
    evaluations: Sequence[Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    attempts: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """A study with its records.

    `study` is what study.json holds, `text` the file it came from, `lock` its lock, `frozen` what it has settled.
    """

    study: Mapping[str, Any]
    text: str
    lock: Mapping[str, Any] | None
    frozen: Mapping[str, Any] | None
    runs: Sequence[ExportedRun]

    @property
    def spec(self) -> StudySpec:
        """The checked study."""
        return StudySpec.model_validate_json(json.dumps(self.study["study"]))


def write_export(export: Export, version: str) -> bytes:
    """The Parquet file, as bytes."""
    import pyarrow
    from pyarrow import parquet

    rows = [_row(run) for run in export.runs]
    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    types = [(name, text) for name in _TEXTS] + [(name, texts) for name in (*_LISTS, _ANSWERS)]
    types += [("recipe", text), ("model", text), ("lr", pyarrow.float64()), ("seed", pyarrow.int64())]
    metadata = {
        "raystudy.format": EXPORT_FORMAT,
        "raystudy.version": version,
        "raystudy.study": _json(export.study),
        "raystudy.study_text": export.text,
        "raystudy.lock": _json(export.lock),
        "raystudy.frozen": _json(export.frozen),
    }
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(types, metadata=metadata))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _row(run: ExportedRun) -> dict[str, Any]:
    return {
        "run_id": run.record.run_id,
        "status": run.record.status,
        "spec": canonical_json(run.run),
        "result": _json(run.record.result),
        "curve": "".join(_json(row) + "\n" for row in run.curve),
        "evaluations": [_json(evaluation) for evaluation in run.evaluations],
        "attempts": [_json(attempt) for attempt in run.attempts],
        _ANSWERS: [_json(answers) for answers in run.answers],
        **run.about,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_export(path: Path) -> Export:
    """A checked export.

    Raises:
        DataError: the file is missing, torn, foreign, of another format, or a record in it is not what it says.
    """
    table = _read_table(path)
    metadata = {str(key): value for key, value in _decoded(path, table).items()}
    if metadata.get("raystudy.format") != EXPORT_FORMAT:
        raise DataError(
            f"{path} must be an export of format {EXPORT_FORMAT}, but is of {metadata.get('raystudy.format')!r}. "
            f"Make one with `raystudy export`"
        )
    lacking = [name for name in (*_TEXTS, *_LISTS) if name not in table.column_names]
    lacking += [name for name in _METADATA if f"raystudy.{name}" not in metadata]
    if lacking:
        raise DataError(f"{path} must have {', '.join((*_TEXTS, *_LISTS, *_METADATA))}, but lacks {', '.join(lacking)}")
    study, lock, frozen = (_parse(path, name, metadata[f"raystudy.{name}"]) for name in ("study", "lock", "frozen"))
    _check_study(path, study)
    _check_frozen(path, frozen)
    try:
        if lock is not None:
            parse_lock(lock, f"{path}: the lock")
    except StorageError as error:
        raise DataError(str(error)) from error
    optional = [_ANSWERS] if _ANSWERS in table.column_names else []
    rows = table.select([*_TEXTS, *_LISTS, *optional]).to_pylist()
    runs = [_exported_run(path, number, row) for number, row in enumerate(rows, start=1)]
    if len({run.record.run_id for run in runs}) < len(runs):
        raise DataError(f"{path}: every run must occur once, but one occurs again. Make the export anew")
    return Export(study, metadata["raystudy.study_text"], lock, frozen, runs)


def _read_table(path: Path) -> "pyarrow.Table":
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file:  # never a folder, a URI or a data set of several files
            return parquet.ParquetFile(file).read()
    except OSError as error:
        raise DataError(f"{path} must be a Parquet file, but cannot be read: {error.strerror or error}") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} must be a Parquet file, but is torn or foreign ({error})") from error


def _decoded(path: Path, table: "pyarrow.Table") -> dict[str, str]:
    try:
        return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be an export, but its metadata are no text") from error


def _parse(path: Path, name: str, text: Any) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could not be written
        return value
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: {name} must be JSON, but is not ({error}). Make the export anew") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_study(path: Path, study: Any) -> None:
    try:
        spec = StudySpec.model_validate_json(json.dumps(study["study"]))
        inputs = study["inputs"]
        digests = [*inputs["shards"].values(), *inputs["validation"].values(), *inputs.get("tasks", {}).values()]
        named = set(inputs["shards"]) == {recipe.name for recipe in spec.all_recipes}
        int(inputs["vocabulary"])
        shares = [share for held in (inputs.get("leaked") or {}).values() for share in held.values()]
        if not all(isinstance(share, int | float) for share in shares):
            raise TypeError("a share is no number")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} must hold a resolved study, but does not. Make the export anew") from error
    if not named or not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests):
        raise DataError(f"{path} must hold a digest for every recipe and validation set, but does not")


def _check_frozen(path: Path, frozen: Any) -> None:
    """An import reads it before it writes; here the digests of data must be digests, since shards lie under them."""
    try:
        data = {} if frozen is None else frozen["data"]
        digests = [value["shards"] for value in data.values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} must hold what the study has frozen, but does not. Make the export anew") from error
    if not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests):
        raise DataError(f"{path} must name frozen data by their digests, but does not")


def _exported_run(path: Path, number: int, row: Mapping[str, Any]) -> ExportedRun:
    where = f"{path}, record {number}"
    if not all(isinstance(row[name], str) for name in _TEXTS) or not all(isinstance(row[n], list) for n in _LISTS):
        raise DataError(f"{where}: every column must hold text, but one does not")
    result = _parse(path, f"the result of record {number}", row["result"])
    try:
        run = read_run(json.dumps(result["spec"]))
        record = parse_result(run.run_id, result, where)
    except ValidationError as error:
        raise DataError(f"{where} must hold a run's spec, but {error.errors()[0]['msg']}") from error
    except (StorageError, KeyError, TypeError) as error:
        raise DataError(f"{where}: {error}") from error
    asked = _parse(path, f"the spec of record {number}", row["spec"])
    if row["run_id"] != run.run_id or row["status"] != record.status or canonical_json(asked) != canonical_json(run):
        raise DataError(f"{where} must be of the run that its spec says ({run.run_id}), but is of {row['run_id']!r}")
    if not _DIGEST.fullmatch(run.shards):
        raise DataError(f"{where} must name its shards by their digest, but names {run.shards!r}")
    evaluations = [_parse(path, f"an evaluation of record {number}", text) for text in row["evaluations"]]
    for problem in filter(None, (evaluation_problem(value, run.run_id) for value in evaluations)):
        raise DataError(f"{where}: an evaluation is wrong: {problem}")
    answers = [_parse(path, f"answers of record {number}", text) for text in row.get(_ANSWERS) or ()]
    for problem in filter(None, (answers_problem(value, run.run_id) for value in answers)):
        raise DataError(f"{where}: answers to a task are wrong: {problem}")
    curve = [_parse(path, f"the curve of record {number}", line) for line in row["curve"].splitlines()]
    attempts = [_parse(path, f"an attempt of record {number}", text) for text in row["attempts"]]
    if not all(isinstance(value, dict) for value in (*curve, *attempts)):
        raise DataError(f"{where}: curve and attempts must hold JSON objects, but do not")
    if not all(isinstance(value, int | float | None) for line in curve for value in line.values()):
        raise DataError(f"{where}: the curve must hold numbers, but does not")
    return ExportedRun(run, record, evaluations, curve, attempts, answers)
