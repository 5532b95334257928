"""Own text files as a source: plain text cut at blank lines, or one document per jsonl line.

A source with `holdout` h keeps documents whose hash lies below h from recipes and gives a validation set
only those; without, both get every document. Knows nothing of tokens.
"""

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from raystudy.errors import DataError
from raystudy.recipes.documents import cut_into_documents, hash_share
from raystudy.recipes.sources.part import SourcePart
from raystudy.specs.base import digest
from raystudy.specs.load import is_file
from raystudy.specs.recipe import TextSource

_GLOB_CHARACTERS = "*?["


def text_parts(source: TextSource, held_out: bool) -> tuple[SourcePart, ...]:
    """One part for all files of the source.

    Raises:
        DataError: files are missing, or a pattern matches none (all are listed together).
    """
    files = find_files(source)
    contents = [[sha256_of(path), _is_jsonl(source, path)] for path in files]
    identity = digest(["text", contents, source.field, source.holdout, held_out and source.holdout > 0])
    label = ", ".join(source.files)
    return (SourcePart(label, identity, partial(_read, source, files, held_out)),)


def find_files(source: TextSource) -> tuple[Path, ...]:
    """The files that the source names, each once: in its order, matches of one pattern sorted by path."""
    return find_matches(source.files, "a text source")


def find_matches(patterns: Sequence[str], owner: str) -> tuple[Path, ...]:
    """The files that paths or globs name, each once; raises DataError with all that name none, `owner` in words."""
    found: dict[Path, None] = {}
    problems = []
    for pattern in patterns:
        path = Path(pattern)
        if is_file(path):
            found[path] = None
        elif any(character in pattern for character in _GLOB_CHARACTERS):
            matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
            files = [match for match in matches if match.is_file()]
            found.update(dict.fromkeys(files))
            if not files:
                problems.append(f"{pattern} (the pattern matches no file)")
        else:
            problems.append(f"{pattern} ({'is no file' if os.path.exists(pattern) else 'there is no such file'})")
    if problems:
        raise DataError(
            f"every file of {owner} must exist, but got: {'; '.join(problems)}. "
            f"Correct the paths (relative ones start at the study file)"
        )
    return tuple(found)


def _read(source: TextSource, files: tuple[Path, ...], held_out: bool) -> tuple[str, ...]:
    documents = [
        document
        for path in files
        for document in (_jsonl_documents(path, source.field) if _is_jsonl(source, path) else _text_documents(path))
    ]
    if source.holdout > 0:
        documents = [document for document in documents if (hash_share(document) < source.holdout) == held_out]
    return tuple(documents)


def _is_jsonl(source: TextSource, path: Path) -> bool:
    return (source.format or ("jsonl" if path.suffix == ".jsonl" else "text")) == "jsonl"


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; raises DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} must be readable, but: {error.strerror or error}. Check its rights")


def _text_documents(path: Path) -> list[str]:
    documents = cut_into_documents(read_utf8(path))
    if not documents:
        raise DataError(f"{path} must hold text, but is empty. Leave it out or fill it")
    return documents


def read_utf8(path: Path) -> str:
    """The file's text; raises DataError where it cannot be read or is no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} must be UTF-8 text, but byte {error.start} is not ({error.reason}). "
            f"Convert it, e.g. iconv -f latin1 -t utf-8"
        ) from error


def _jsonl_documents(path: Path, field: str) -> list[str]:
    documents = []
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: the line must be JSON, but is not ({error}). Mend the line") from error
        text = row.get(field) if isinstance(row, dict) else None
        if not isinstance(text, str):
            came = f"got the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else f"got {type(row).__name__}"
            raise DataError(
                f"{path}:{number}: the line must be an object with text under {field!r}, but {came}. "
                f"Name the right key with `field:`"
            )
        if text.strip():
            documents.append(_encodable(text, path, number))
    if not documents:
        raise DataError(f"{path} must hold documents, but has none. Leave it out or fill it")
    return documents


def _encodable(text: str, path: Path, number: int) -> str:
    """`text`, unless it holds half of a surrogate pair, which JSON can spell but no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}:{number}: the text must be valid Unicode, but {error.reason}. Mend the line"
        ) from error
    return text
