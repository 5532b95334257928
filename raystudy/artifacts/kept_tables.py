"""Copies of the tables of scores that a study names: the only reader and writer of `studies/<name>/tables/`.

A study that was run elsewhere is compared with these, whatever lies at the paths that it names. Each is called by the
SHA-256 of its content; which protocol's it is stands in study.json.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from raystudy.artifacts.files import StoragePath, exists, names_in, read_bytes, write_bytes
from raystudy.artifacts.score_table import table_bytes, table_path
from raystudy.errors import DataError, StorageError
from raystudy.specs.protocol import TableProtocol
from raystudy.specs.study import StudySpec

_NAME = re.compile(r"(?P<sha256>[0-9a-f]{64})(\.(csv|tsv|tab|parquet|pq))?")  # endings that say how to read it


def keep_tables(study_folder: StoragePath, study: StudySpec) -> dict[str, str]:
    """Copy the tables of the study's protocols; the names of the copies by protocol.

    One that cannot be read, as while it is absent, is left out.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    kept = {}
    for name, protocol in study.protocols.items():
        if isinstance(protocol, TableProtocol):
            path = table_path(protocol.file)
            try:
                content = table_bytes(path)
            except DataError:
                continue
            called = hashlib.sha256(content).hexdigest() + path.suffix.lower()
            kept[name] = called if _NAME.fullmatch(called) else called.partition(".")[0]
            if read_bytes(_folder(study_folder) / kept[name]) != content:  # not there, or damaged
                write_bytes(_folder(study_folder) / kept[name], content)
    return kept


def with_kept_tables(study: StudySpec, study_folder: StoragePath, inputs: Mapping[str, Any]) -> StudySpec:
    """The study with the copies in the place of its tables; `inputs`: what study.json holds beside the study.

    Where there is no copy, as after an import, the path stays.

    Raises:
        UnreadableError: the storage cannot be read.
    """
    named = inputs.get("tables")
    protocols = dict(study.protocols)
    for name, called in named.items() if isinstance(named, dict) else ():
        protocol = protocols.get(name)
        if not isinstance(protocol, TableProtocol) or not _NAME.fullmatch(str(called)):
            continue
        path = _folder(study_folder) / str(called)
        if exists(path):
            protocols[name] = protocol.model_copy(update={"file": str(path)})
    return study.model_copy(update={"protocols": protocols})


def kept_tables(study_folder: StoragePath) -> list[StoragePath]:
    """Where the copies lie; raises UnreadableError."""
    return [_folder(study_folder) / name for name in names_in(_folder(study_folder)) if _NAME.fullmatch(name)]


def check_table(path: StoragePath) -> None:
    """Raises StorageError where a copy is not what was copied."""
    if hashlib.sha256(read_bytes(path) or b"").hexdigest() != path.name.partition(".")[0]:
        raise StorageError(f"{path} must have the SHA-256 that it is called by, but has not. Run the study again")


def _folder(study_folder: StoragePath) -> StoragePath:
    return study_folder / "tables"
