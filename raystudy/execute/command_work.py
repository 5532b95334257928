"""Where a command works: the folder `work` of its run, or of a remote storage a folder of this node that stands for it.

Such a folder is brought up to date from the storage before an attempt, and is kept on the storage after it and every
ten minutes of it: `kept/<SHA-256>` for every file of `out/`, `log.txt` and `spec.json`, and `kept.json`, which comes
last and says which file is which, so that what is kept is whole whenever it is cut off. The log also lies there by its
name, for people. What a killed worker leaves on a node is ahead of what is kept, and is gone on from where the run is
tried on that node again.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from raystudy.artifacts.files import (
    NO_ROOM,
    StoragePath,
    download,
    read_json,
    remove_file,
    storage_errors,
    upload,
    write_json,
)
from raystudy.artifacts.node_cache import storage_tag
from raystudy.artifacts.node_room import cache_folder, make_folder, make_room, node_errors
from raystudy.artifacts.sealed import sha256_of
from raystudy.errors import RaystudyError, StorageError

KEPT = "kept.json"
_FORMAT = "raystudy-work/1"
_LOG = "log.txt"
_PLAIN = (_LOG, "spec.json")  # beside out/
_KEEP_SECONDS = 600.0  # of an attempt, after which what it has written so far is kept
_CHECKSUM = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Work:
    """A run's work folder: `here` on this node, `there` on the storage; the same where that is local."""

    here: Path
    there: StoragePath
    lock: int  # open; processes that inherit it hold the folder too

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """An attempt here; what it leaves is kept on the storage however it ends. Raises UnwritableError."""
        if self.here == self.there:
            yield
            return
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep_now_and_then, args=(ended,), name="keep-work", daemon=True)
        keeper.start()
        error: RaystudyError | None = None
        try:
            yield
        except RaystudyError as met:
            error = met
        finally:
            ended.set()
            keeper.join()
        self._keep()
        upload_if_there(self.here / _LOG, self.there / _LOG)
        shutil.rmtree(self.here, ignore_errors=True)  # the lock is held until its file is closed
        if error is not None:
            if type(error) is not RaystudyError:
                raise error
            raise RaystudyError(str(error).replace(str(self.here), str(self.there))) from error

    def _keep_now_and_then(self, ended: threading.Event) -> None:
        while not ended.wait(_KEEP_SECONDS):
            with contextlib.suppress(StorageError, OSError):  # what cannot be kept now is kept later
                self._keep()

    def _keep(self) -> None:
        """Keep on the storage what is here, and no more; of a file that is being written what was kept before."""
        before = _read(self.here / KEPT)["files"]
        listed: dict[str, Any] = {}
        for name, file in _files(self.here).items():
            about = self._keep_file(file, before.get(name))
            listed |= {name: about} if about is not None else {}
        value = {"format": _FORMAT, "upload": uuid.uuid4().hex, "files": listed}
        write_json(self.there / KEPT, value)
        write_json(self.here / KEPT, value, durable=False)
        used = {about["sha256"] for about in listed.values()}
        for gone in {about["sha256"] for about in before.values()} - used:
            remove_file(self.there / "kept" / gone)

    def _keep_file(self, file: Path, before: dict[str, Any] | None) -> dict[str, Any] | None:
        """What kept.json says of a file; None where it has gone, or is written for the first time just now."""
        try:
            stamp = _stamp(file)
            if before is not None and before["stamp"] == stamp:
                return before
            found = sha256_of(file)
            upload(file, self.there / "kept" / found)
            return {"stamp": stamp, "sha256": found} if _stamp(file) == stamp else before
        except FileNotFoundError:
            return None


def upload_if_there(file: Path, to: StoragePath) -> None:
    """Upload a local file, unless there is none."""
    if file.is_file():
        upload(file, to)


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def held(there: StoragePath) -> Iterator[Work]:
    """The work folder `there` of a storage, for one process of this machine at a time where its file system can tell.

    Raises:
        UnwritableError: it cannot be written.
        NodeFullError: it lies on a remote storage, and this node has no room for it.
    """
    if isinstance(there, Path):
        with storage_errors(there):
            (there / "out").mkdir(parents=True, exist_ok=True)
            lock = os.open(there / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        with _locked(lock):
            yield Work(there, there, lock)
        return
    run_folder = there.parent
    here = cache_folder() / "work" / storage_tag(run_folder.parent) / run_folder.name
    make_folder(here.parent)
    with node_errors(here):
        lock = os.open(here.with_name(f".lock-{here.name}"), os.O_RDWR | os.O_CREAT, 0o600)
    with _locked(lock):
        _bring(there, here)
        with node_errors(here):
            (here / "out").mkdir(parents=True, exist_ok=True)
        yield Work(here, there, lock)


@contextlib.contextmanager
def _locked(lock: int) -> Iterator[None]:
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _bring(there: StoragePath, here: Path) -> None:
    """Make what is here what is kept, unless that is what an attempt here began from or left.

    Where what is kept is not whole, as when its upload was cut off, nothing is here afterwards: the run begins anew.
    """
    kept, before = _read(there / KEPT), _read(here / KEPT)
    if not kept["upload"] or kept["upload"] == before["upload"]:
        return
    shutil.rmtree(here, ignore_errors=True)
    files: dict[str, Any] = kept["files"]
    needed = sum(file["stamp"][0] for file in files.values())
    make_room(here, needed)
    with node_errors(here, needed, NO_ROOM):
        is_whole = all(_bring_file(there, here / name, file) for name, file in files.items())
        if is_whole:
            (here / KEPT).write_text(json.dumps(kept))
    if not is_whole:
        shutil.rmtree(here, ignore_errors=True)


def _bring_file(there: StoragePath, here: Path, about: dict[str, Any]) -> bool:
    if not download(there / "kept" / about["sha256"], here) or sha256_of(here) != about["sha256"]:
        return False
    os.utime(here, ns=(about["stamp"][1], about["stamp"][1]))  # how long an attempt took is told by such times
    return True


def _read(path: StoragePath) -> dict[str, Any]:
    """What is kept; nothing where that cannot be told, or where a name is no file of the folder."""
    nothing: dict[str, Any] = {"upload": "", "files": {}}
    try:
        value = read_json(path)
    except StorageError:
        return nothing
    if not isinstance(value, dict) or value.get("format") != _FORMAT or not isinstance(value.get("upload"), str):
        return nothing
    files = value.get("files")
    if not isinstance(files, dict) or not all(_is_ours(name, about) for name, about in files.items()):
        return nothing
    return {"upload": value["upload"], "files": files}


def _is_ours(name: str, about: Any) -> bool:
    parts = PurePosixPath(name).parts
    is_inside = name in _PLAIN or (len(parts) > 1 and parts[0] == "out" and ".." not in parts)
    try:
        size, changed = about["stamp"]
        is_whole = isinstance(size, int) and isinstance(changed, int) and _CHECKSUM.fullmatch(about["sha256"])
        return is_inside and bool(is_whole)
    except (KeyError, TypeError, ValueError):
        return False


def _files(here: Path) -> dict[str, Path]:
    """Every file that is kept, by its name there; links are not followed."""
    found = {name: here / name for name in _PLAIN if (here / name).is_file()}
    for folder, _, names in os.walk(here / "out"):
        for path in (Path(folder) / name for name in names):
            if path.is_file() and not path.is_symlink():
                found[path.relative_to(here).as_posix()] = path
    return found
