"""Where a command works: the folder `work` of its run, or of a remote storage a folder of this node that stands for it.

Such a folder is brought up to date from the storage before an attempt and is kept on the storage after it, whole:
`log.txt`, `spec.json`, all of `out/`, and `kept.json`, which comes last and lists them with their SHA-256. What a
killed worker leaves on a node is ahead of what is kept, and is gone on from where the run is tried on that node again.
"""

import contextlib
import fcntl
import json
import os
import shutil
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
_PLAIN = ("log.txt", "spec.json")  # beside out/


@dataclass(frozen=True)
class Work:
    """A run's work folder: `here` on this node, `there` on the storage; the same where that is local."""

    here: Path
    there: StoragePath
    lock: int  # open; processes that inherit it hold the folder too

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """An attempt here; what it leaves is kept on the storage however it ends. Raises UnwritableError."""
        try:
            yield
        except RaystudyError as error:
            self._keep()
            if type(error) is not RaystudyError:
                raise
            raise RaystudyError(str(error).replace(str(self.here), str(self.there))) from error
        self._keep()

    def _keep(self) -> None:
        if self.here == self.there:
            return
        before, files = _read(self.here / KEPT), _files(self.here)
        listed: dict[str, Any] = {}
        for name, file in files.items():
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            known = before["files"].get(name, {})
            is_same = known.get("stamp") == stamp
            if not is_same:
                upload(file, self.there / name)
            listed[name] = {"stamp": stamp, "sha256": known["sha256"] if is_same else sha256_of(file)}
        value = {"format": _FORMAT, "upload": uuid.uuid4().hex, "files": listed}
        write_json(self.there / KEPT, value)
        for name in before["files"].keys() - files.keys():
            remove_file(self.there / name)
        shutil.rmtree(self.here, ignore_errors=True)  # the lock is held until its file is closed


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
        is_whole = all(_bring_file(there / name, here / name, file) for name, file in files.items())
        if is_whole:
            (here / KEPT).write_text(json.dumps(kept))
    if not is_whole:
        shutil.rmtree(here, ignore_errors=True)


def _bring_file(there: StoragePath, here: Path, about: dict[str, Any]) -> bool:
    if not download(there, here) or sha256_of(here) != about["sha256"]:
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
        return is_inside and isinstance(size, int) and isinstance(changed, int) and isinstance(about["sha256"], str)
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
