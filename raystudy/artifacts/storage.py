"""Where a storage lies and where its parts are: shards, runs and studies below one folder.

A study's folder holds the resolved study, what it has frozen, the driver's lock and progress, the comparison and the
report.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import (
    StoragePath,
    exists,
    is_folder,
    is_remote,
    read_bytes,
    read_json,
    storage_errors,
    write_bytes,
    write_json,
)
from raystudy.artifacts.kept_tables import keep_tables
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.remote_storage import check_promises, open_root
from raystudy.artifacts.remote_storage import is_uri as is_uri
from raystudy.errors import StorageError
from raystudy.specs.base import digest
from raystudy.specs.load import LoadedStudy
from raystudy.specs.study import StudySpec

DEFAULT_STORAGE = "raystudy-storage"
SHARED = "a folder that all nodes share under one path (NFS, a shared volume), or a bucket (s3://, gs://)"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def folder_name(name: str) -> str:
    """A folder name for any study name: itself where that is plain, else a readable part and a digest."""
    if _PLAIN.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
    return f"{readable or 'study'}-{digest(name)[:12]}"


class StudyFolder:
    """`studies/<name>/` on a storage."""

    def __init__(self, root: StoragePath, name: str) -> None:
        self.name, self.root = name, root
        self.path: StoragePath = root / "studies" / folder_name(name)

    def write_study(self, study: LoadedStudy, inputs: dict[str, Any]) -> None:
        """Keep the resolved study, the text it came from, the digests of its shards, and its tables of scores."""
        # Only what was given: in a model's own training settings null and left out are not the same.
        resolved = study.spec.model_dump(mode="json", exclude_unset=True)
        text = study.text + "".join(f"\n# --set {override}" for override in study.overrides)
        write_bytes(self.path / "study.yaml", text.encode())
        tables = keep_tables(self.path, study.spec)
        value = {"study": resolved, "inputs": {**inputs, **({"tables": tables} if tables else {})}}
        write_json(self.path / "study.json", value)

    @classmethod
    def at(cls, root: StoragePath, path: StoragePath) -> "StudyFolder":
        """The folder of a study at `path`, whatever its study is called."""
        folder = cls(root, path.name)
        folder.path = path
        return folder

    @property
    def compacted(self) -> StoragePath:
        """Where copies of many records lie in few files, on a remote storage."""
        return self.path / "compacted"

    def is_there(self) -> bool:
        """Whether there is a study; raises UnreadableError."""
        return exists(self.path / "study.json")

    def read_text(self) -> str:
        """The study as it was written; empty where that is not there.

        Raises:
            StorageError: it is no text.
        """
        content = read_bytes(self.path / "study.yaml")
        try:
            return "" if content is None else content.decode()
        except UnicodeDecodeError as error:
            raise StorageError(
                f"{self.path / 'study.yaml'} must be text, but is damaged. Run the study again"
            ) from error

    def read_study(self) -> tuple[StudySpec, dict[str, Any]]:
        """The resolved study and the digests of its shards.

        Raises:
            StorageError: there is no such study, or its folder is damaged.
        """
        path = self.path / "study.json"
        value = read_json(path)
        if value is None:
            see_root(self.root)
            raise StorageError(
                f"there must be a study in {self.path}, but it has no study.json. "
                "Run the study first, or name the storage it was run on with --storage"
            )
        try:
            return StudySpec.model_validate_json(json.dumps(value["study"])), dict(value["inputs"])
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{path} must be a resolved study, but is damaged. Run the study again") from error

    def write_frozen(self, frozen: Mapping[str, Any]) -> None:
        """Keep what the study has frozen; only the driver that holds the study does."""
        write_json(self.path / "frozen.json", frozen)

    def read_frozen(self) -> Any:
        """What the study has frozen, unchecked; None where nothing is.

        Raises:
            StorageError: the file is torn.
        """
        return read_json(self.path / "frozen.json")

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Keep how far the launch is, for whoever looks on."""
        write_json(self.path / "progress.json", progress)

    def read_progress(self) -> dict[str, Any]:
        """How far the last launch was; empty where nothing is known."""
        try:
            value = read_json(self.path / "progress.json")
        except StorageError:
            return {}
        return value if isinstance(value, dict) else {}

    def write_comparison(self, comparison: dict[str, Any]) -> StoragePath:
        """Keep the comparison; returns its path."""
        path = self.path / "comparison.json"
        write_json(path, comparison)
        return path

    def has_complete_comparison(self) -> bool:
        """Whether the comparison kept here was made when no wanted run was missing."""
        value = read_json(self.path / "comparison.json")
        return isinstance(value, dict) and value.get("missing") == []

    def write_report(self, page: str) -> StoragePath:
        """Keep the report page; returns its path."""
        path = self.path / "report.html"
        write_bytes(path, page.encode())
        return path


class Storage:
    """A folder, or a bucket's prefix, that holds shards, runs and studies.

    `is_absolute`: it was named by a URI or an absolute path, which can be the same folder on all nodes of a cluster.
    """

    def __init__(self, root: StoragePath, *, is_absolute: bool = True) -> None:
        self.root, self.is_absolute = root, is_absolute
        self.runs = RunLedger(root)

    def study(self, name: str) -> StudyFolder:
        """The folder of the study called `name`."""
        return StudyFolder(self.root, name)

    @property
    def is_there(self) -> bool:
        """Whether this machine sees the storage at all; a bucket is asked nothing, and counts as seen."""
        return is_remote(self.root) or is_folder(self.root)

    def prepare(self) -> None:
        """Make the folder and see that it can be written; a remote storage must also let the first writer win.

        Raises:
            StorageError: it cannot.
        """
        if not isinstance(self.root, Path):
            check_promises(self.root)
            return
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"raystudy")


def see_root(root: StoragePath) -> None:
    """Raises StorageError where a storage's folder is not on this machine; of a bucket nothing is asked."""
    if not is_remote(root) and not is_folder(root):
        raise StorageError(
            f"the storage must be there, but {root} is not a folder on this machine: it is not mounted here, or "
            f"nothing has run on it yet. Mount it, name another with --storage or RAYSTUDY_STORAGE, or look from a "
            f"machine that sees it"
        )


def open_storage(location: str | Path) -> Storage:
    """The storage at `location`: a local folder, `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`. Asks nothing of it.

    Credentials and endpoint come from the environment or the machine's role alone.

    Raises:
        StorageError: `location` is no such place, or holds credentials.
        MissingPackageError: the package that reaches it is not installed.
    """
    text = str(location)
    if is_uri(text):
        return Storage(open_root(text))
    return Storage(Path(text).absolute(), is_absolute=Path(text).is_absolute())


def locate_storage(option: str | Path | None = None, loaded: LoadedStudy | None = None) -> Storage:
    """The storage meant: the option, RAYSTUDY_STORAGE, the study file's (relative to it), raystudy-storage/."""
    if option is not None:
        return open_storage(option)
    if os.environ.get("RAYSTUDY_STORAGE"):
        return open_storage(os.environ["RAYSTUDY_STORAGE"])
    if loaded is not None and loaded.spec.storage is not None:
        if is_uri(loaded.spec.storage):
            return open_storage(loaded.spec.storage)
        storage = open_storage(loaded.path.parent / loaded.spec.storage)
        storage.is_absolute = Path(loaded.spec.storage).is_absolute()  # the study file's own place may be a job's copy
        return storage
    return open_storage(DEFAULT_STORAGE)
