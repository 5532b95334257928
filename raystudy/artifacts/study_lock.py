"""The preregistration of a study: the only reader and writer of `studies/<name>/lock.json`.

Written once, never replaced. Knows nothing of what is registered, nor whether results keep to it.
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raystudy.artifacts.files import StoragePath, read_json, write_json
from raystudy.errors import StorageError
from raystudy.specs.base import digest

LOCK_FORMAT = "raystudy-lock/1"


@dataclass(frozen=True)
class Lock:
    """What was registered, its digest, when (UTC, whole seconds), and the runs that had been started by then."""

    digest: str
    registered: Mapping[str, Any]
    locked_at: datetime.datetime
    started_before: frozenset[str]


def lock_path(study_folder: StoragePath) -> StoragePath:
    """Where a study's lock lies."""
    return study_folder / "lock.json"


def write_lock(study_folder: StoragePath, registered: Mapping[str, Any], started_before: Iterable[str]) -> bool:
    """Write the lock with the present time; False when there is one already, which stays."""
    now = datetime.datetime.now(datetime.UTC)
    value = {
        "format": LOCK_FORMAT,
        "digest": digest(registered),
        # Whole seconds, as a record's `started_at`; what started before in this second is listed below.
        "locked_at": now.isoformat(timespec="seconds"),
        "registered": registered,
        "started_before": sorted(started_before),
    }
    return write_json(lock_path(study_folder), value, exclusive=True)


def read_lock(study_folder: StoragePath) -> Lock | None:
    """The lock in `study_folder`, or None.

    Raises:
        StorageError: it is torn, foreign, or its digest is not that of what it holds.
    """
    path = lock_path(study_folder)
    value = read_json(path)
    return None if value is None else parse_lock(value, str(path))


def parse_lock(value: Any, shown: str) -> Lock:
    """The lock in `value`, which came from the place named `shown`; raises StorageError."""
    try:
        if value["format"] != LOCK_FORMAT:
            raise ValueError(f"its format is {value['format']!r}")
        registered, came = value["registered"], value["digest"]
        locked_at = datetime.datetime.fromisoformat(value["locked_at"])
        started_before = frozenset(str(run_id) for run_id in value["started_before"])
        if not isinstance(registered, dict) or locked_at.tzinfo is None:
            raise ValueError("a part of it is of another type")
        if digest(registered) != came:
            raise ValueError("its digest is not that of what it holds")
    except (KeyError, TypeError, ValueError) as error:
        way_out = "The study can go on under a new name"
        raise StorageError(f"{shown} must be a lock of format {LOCK_FORMAT}, but {error}. {way_out}") from error
    return Lock(str(came), registered, locked_at, started_before)
