"""Reads a table of scores in long form from a CSV, TSV or Parquet file: one row per recipe, protocol, metric and seed.

The only reader of such tables. Knows nothing about comparing; names are any text and stay text.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import StoragePath, read_bytes, size_of
from raystudy.artifacts.remote_storage import is_uri, open_root
from raystudy.errors import DataError

COLUMNS = ("recipe", "protocol", "score", "seed", "metric", "tokenizer")
_ANY_TOKENIZER = "bits-per-byte"  # the metrics whose name begins so mean the same whatever cuts the text into tokens
_PARQUET_MAGIC = b"PAR1"
_MOST_BYTES = 2_000_000_000  # a table is read whole; 2 GB is far more than scores take


@dataclass(frozen=True)
class ScoreRow:
    """One score; `protocol`, `seed`, `metric` and `tokenizer` are None where the table has no such column."""

    recipe: str
    score: float
    protocol: str | None
    seed: str | None
    metric: str | None
    tokenizer: str | None = None


def read_score_table(
    path: StoragePath, columns: Mapping[str, str] | None = None, *, required: Sequence[str] = ("recipe", "score")
) -> list[ScoreRow]:
    """The rows of the table, in its order.

    `columns` names the file's column for any of `COLUMNS` (by default it has that same name); `required` must be
    there. A name is taken as it is written, a number in Parquet as Python writes it.

    Raises:
        DataError: the file cannot be read as a table, lacks a column, has no rows, leaves a name empty, repeats a
            row, holds a score that is not a finite number, or holds scores per token of several tokenizers.
    """
    data = table_bytes(path)
    is_parquet = data.startswith(_PARQUET_MAGIC) or path.suffix.lower() in (".parquet", ".pq")
    header, records = _parquet(path, data) if is_parquet else _text(path, data)
    place_of = _places(path, header, columns or {}, required)
    rows: list[ScoreRow] = []
    seen: dict[tuple[str | None, ...], str] = {}
    for where, record in records:
        row = _row(f"{path}, {where}", {noun: record[place] for noun, place in place_of.items()})
        key = (row.recipe, row.protocol, row.metric, row.seed)
        if key in seen:
            raise DataError(_repeated(path, row, seen[key], where))
        seen[key] = where
        rows.append(row)
    if not rows:
        raise DataError(f"{path} must have rows, but has a header only")
    _check_tokenizers(path, rows)
    return rows


def _check_tokenizers(path: StoragePath, rows: Sequence[ScoreRow]) -> None:
    """Raises DataError where one protocol has scores of several tokenizers that only bits per byte could compare."""
    first: dict[tuple[str | None, str | None], ScoreRow] = {}
    for row in rows:
        there = first.setdefault((row.protocol, row.metric), row)
        if row.tokenizer != there.tokenizer and not (row.metric or "").startswith(_ANY_TOKENIZER):
            raise DataError(
                f"{path}: scores of different tokenizers must be bits per byte to be compared, but of the metric "
                f"{row.metric or '(none named)'!r} {there.recipe!r} has tokenizer {there.tokenizer!r} and "
                f"{row.recipe!r} has {row.tokenizer!r}. Give bits per byte, in rows whose metric is called "
                f"{_ANY_TOKENIZER!r} or begins so"
            )


def table_path(file: str) -> StoragePath:
    """Where the table that a protocol names lies: on this machine, or what a URI names on a remote storage."""
    return open_root(file) if is_uri(file) else Path(file)


def table_checksum(path: StoragePath) -> str:
    """The SHA-256 of a table's file; raises DataError where it cannot be read."""
    return hashlib.sha256(table_bytes(path)).hexdigest()


def table_bytes(path: StoragePath) -> bytes:
    """The content of a table's file.

    Raises:
        DataError: it cannot be read, or is too large to be one.
        UnreadableError: it lies on a remote storage that cannot be read.
    """
    wanted = f"{path} must be a CSV, TSV or Parquet file"
    try:
        size = path.stat().st_size if isinstance(path, Path) else size_of(path) or 0
        if size > _MOST_BYTES:
            raise DataError(f"{path} must be a table of scores, but has {size:,} bytes")
        content = path.read_bytes() if isinstance(path, Path) else read_bytes(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{wanted}, but: {reason}") from error
    if content is None:
        raise DataError(f"{wanted}, but is not there")
    return content


Records = Iterator[tuple[str, Sequence[Any]]]


def _text(path: StoragePath, data: bytes) -> tuple[list[str], Records]:
    """Header and rows with their lines. Tabs part the columns of .tsv, and where the header has tabs but no comma."""
    wanted = f"{path} must be a CSV, TSV or Parquet file"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{wanted}, but byte {error.start} is no UTF-8 text") from error
    if "\0" in text:
        raise DataError(f"{wanted}, but holds binary data")
    if not text.strip():
        raise DataError(f"{wanted}, but is empty")
    first = text.lstrip().partition("\n")[0]
    has_tabs = path.suffix.lower() in (".tsv", ".tab") or ("\t" in first and "," not in first)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if has_tabs else ",", strict=True)
    lines = _lines(path, reader)
    _, header = next(lines)
    return [name.strip() for name in header], _complete(path, lines, len(header))


def _lines(path: StoragePath, reader: Any) -> Records:
    start = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: must be a row of a table, but: {error}") from error
        if any(cell.strip() for cell in row):
            yield f"line {start}", row
        start = reader.line_num + 1


def _complete(path: StoragePath, lines: Records, num_columns: int) -> Records:
    for where, row in lines:
        if len(row) != num_columns:
            raise DataError(f"{path}, {where}: must have {num_columns} cells as the header has, but has {len(row)}")
        yield where, row


def _parquet(path: StoragePath, data: bytes) -> tuple[list[str], Records]:
    """Header and rows with their numbers, from 1."""
    from pyarrow import ArrowException, BufferReader  # slow to import, and most tables are text
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(BufferReader(data)).read()
        header = [str(name) for name in table.column_names]
        values = [table.column(place).to_pylist() for place in range(len(header))]
    except (ArrowException, OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path} must be a Parquet file, but cannot be read as one: {first}") from error
    return header, ((f"row {number}", row) for number, row in enumerate(zip(*values, strict=True), start=1))


def _places(
    path: StoragePath, header: Sequence[str], columns: Mapping[str, str], required: Sequence[str]
) -> dict[str, int]:
    """The place of each noun's column; a noun that is not required may have none."""
    found: dict[str, int] = {}
    for noun in COLUMNS:
        name = columns.get(noun, noun)
        if header.count(name) > 1:
            raise DataError(
                f"{path}: each column must have its own name, but {name!r} occurs {header.count(name)} times"
            )
        if name in header:
            found[noun] = header.index(name)
        elif noun in columns or noun in required:
            raise DataError(_lacking(path, noun, name, header))
    return found


def _lacking(path: StoragePath, noun: str, name: str, header: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, header, n=1)
    there = ", ".join(repr(column) for column in header[:20]) + (", ..." if len(header) > 20 else "")
    guess = f"Did you mean {close[0]!r}? " if close else ""
    way_out = f"Name the column of the {noun} with --column {noun}=COLUMN"
    return f"{path} must have a column {name!r} for the {noun}, but has {there}. {guess}{way_out}"


def _row(where: str, cells: Mapping[str, Any]) -> ScoreRow:
    names = {noun: _name(where, noun, cells[noun]) for noun in cells if noun != "score"}
    return ScoreRow(
        recipe=names["recipe"],
        score=_score(where, cells["score"]),
        protocol=names.get("protocol"),
        seed=names.get("seed"),
        metric=names.get("metric"),
        tokenizer=names.get("tokenizer") or None,
    )


def _name(where: str, noun: str, cell: Any) -> str:
    text = "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell).strip()
    # A protocol without seeds may stand beside one with seeds.
    if not text and noun not in ("seed", "tokenizer"):
        raise DataError(f"{where}: every row must name its {noun}, but the cell is empty")
    return text


def _score(where: str, cell: Any) -> float:
    """A finite number; text is read as Python reads a number, without its underscores."""
    way_out = "A recipe without a score has no row"
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise DataError(f"{where}: every score must be a finite number, but the cell is empty. {way_out}")
    try:
        if isinstance(cell, bool | bytes) or (isinstance(cell, str) and "_" in cell):
            raise ValueError
        score = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: every score must be a finite number, but got {_shown(cell)}") from None
    if not math.isfinite(score):
        raise DataError(f"{where}: every score must be a finite number, but got {_shown(cell)}. {way_out}")
    return score


def _shown(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _repeated(path: StoragePath, row: ScoreRow, first: str, again: str) -> str:
    parts = {"recipe": row.recipe, "protocol": row.protocol, "metric": row.metric, "seed": row.seed}
    known = {noun: value for noun, value in parts.items() if value is not None}
    named = ", ".join(f"{noun} {value!r}" for noun, value in known.items())
    nouns = ", ".join(known)
    lacking = [noun for noun in ("seed", "metric") if noun not in known]
    way_out = f". Is there a column for the {' or '.join(lacking)}? Name it with --column" if lacking else ""
    return f"{path}, {again}: each {nouns} must occur once, but {named} stands in {first} already{way_out}"
