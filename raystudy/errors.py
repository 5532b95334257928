"""The exceptions a user can meet. Every message says what must hold, what came, and what to do.

The command line turns each into one message on standard error and the exit status named here;
a traceback is therefore always a defect of raystudy.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upath import UPath


class RaystudyError(Exception):
    """Something the user can mend. `exit_status` is the process's exit status on the command line."""

    exit_status = 1


class SpecError(RaystudyError):
    """A study file, catalogue, search space or option that breaks a rule."""

    exit_status = 2


class StorageError(RaystudyError):
    """The storage cannot be read or written, or holds something that is not what it should be."""

    exit_status = 3


class UnreadableError(StorageError):
    """Something on the storage is there but cannot be read: no rights, a failing disk. That is no damage to mend."""


class UnwritableError(StorageError):
    """The storage cannot be written now: full, over quota, read-only, no rights. No other run would fare better."""


class NodeFullError(StorageError):
    """This node's disk has no room for what a run reads from a remote storage; another node may have."""


class OtherCodeError(NodeFullError):
    """This node has another raystudy than the driver: like a full one it makes no runs, and another may.

    A group of workers that meets it ends at once, and with it the launch: a person must mend that.
    """


class DataError(RaystudyError):
    """A source of text, a shard or a results table that cannot be used."""

    exit_status = 4


class DamagedError(DataError):
    """What lies at `path` on the storage is not what was written there. A launch keeps it aside and makes it anew."""

    def __init__(self, message: str, path: "Path | UPath") -> None:
        super().__init__(message)
        self.path = path


class StudyHeldError(RaystudyError):
    """Another driver holds the study."""

    exit_status = 5


class IncompleteError(RaystudyError):
    """Some wanted runs have no result."""

    exit_status = 6


class MissingPackageError(RaystudyError):
    """An optional package is needed and not installed."""

    exit_status = 7


class BudgetError(RaystudyError):
    """A launch stopped at its budget before all wanted runs were made."""

    exit_status = 8


class StoppedError(RaystudyError):
    """Work stopped where it can go on, as asked: before a walltime ended, or by a batch system's signal."""

    exit_status = 11
