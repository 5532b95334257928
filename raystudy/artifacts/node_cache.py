"""What lies on a remote storage, on this node's disk: fetched once, checked, shared by all processes of the node.

Sealed folders stay as long as there is room (see node_room.py), each below a folder that stands for its storage; a
single file is kept while it is read. What lies on a local storage is read where it lies. Knows nothing of what the
files mean.
"""

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raystudy.artifacts import sealed
from raystudy.artifacts.endpoint import endpoint_of
from raystudy.artifacts.files import (
    NO_ROOM,
    StoragePath,
    download,
    read_bytes,
    size_of,
    upload,
    write_local_parts,
    writing_name,
)
from raystudy.artifacts.node_room import (
    cache_folder,
    locked,
    make_folder,
    make_room,
    mark_used,
    node_errors,
    remove,
)
from raystudy.artifacts.sealed import MANIFEST, damaged, open_sealed, parse_manifest, sha256_of
from raystudy.errors import DamagedError, NodeFullError, UnwritableError
from raystudy.specs.base import digest

_TRANSFERS = 2  # of a folder, before what came is taken for what lies on the storage
_fetched: list[str] = []


def storage_tag(folder: StoragePath) -> str:
    """12 hexadecimal digits for a folder of a storage: of its URI, and of the endpoint, which a URI does not name."""
    return digest([str(folder), next(iter(endpoint_of(str(folder)).values()), "")])[:12]


def place_here(folder: StoragePath) -> Path:
    """Where this node keeps its copy of `folder`; copies of neighbours are neighbours."""
    return cache_folder() / storage_tag(folder.parent) / folder.name


def on_this_node(folder: StoragePath, verify: bool = True) -> Path:
    """The sealed `folder` as a local one: itself, or of a remote storage this node's copy, fetched if there is none.

    A copy is compared with its checksums when it is fetched, and with `verify` once by every process that reads it;
    one that is not what was fetched is fetched anew. Processes that ask at once wait for the one that fetches.

    Raises:
        DamagedError: the folder on the storage is missing or is not what was written; its path is that on the storage.
        NodeFullError: this node has no room for it.
        UnreadableError: the storage cannot be read.
    """
    if isinstance(folder, Path):
        return folder
    here = place_here(folder)
    with locked(here):
        mark_used(here)
        if not (here / MANIFEST).exists():
            _fetch(folder, here)
    try:
        open_sealed(here, verify)
    except DamagedError:
        with locked(here):
            _mend(folder, here)
    return here


def _mend(folder: StoragePath, here: Path) -> None:
    """Fetch anew what this node's disk has changed, unless another process just has."""
    try:
        sealed.verify_again(here)
    except DamagedError:
        _fetch(folder, here)


def write_sealed(folder: StoragePath, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """As `sealed.write_sealed`; what goes to a remote storage is kept on this node too, where there is room."""
    sealed.write_sealed(folder, contents, manifest)
    if isinstance(folder, Path):
        return
    here = place_here(folder)
    with contextlib.suppress(NodeFullError, UnwritableError, DamagedError), locked(here):  # else told when it is read
        make_room(here, sum(map(len, contents.values())))
        sealed.write_sealed(here, contents, manifest)


@contextlib.contextmanager
def fetched(path: StoragePath) -> Iterator[Path | None]:
    """One file as a local one for as long as it is read; None where there is none.

    Raises:
        NodeFullError: this node has no room for it.
        UnreadableError: the storage cannot be read.
    """
    if isinstance(path, Path):
        yield path if path.exists() else None
        return
    copy = cache_folder() / "files" / writing_name()
    try:
        yield copy if _fetch_file(path, copy) else None
    finally:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)


def write_parts(path: StoragePath, parts: Sequence[bytes | memoryview], *, durable: bool = True) -> None:
    """Write a file of `parts`, end to end, without holding all of it in memory; for a remote storage by a file here.

    Raises:
        NodeFullError: this node has no room for that.
        UnwritableError: the storage cannot be written.
    """
    if isinstance(path, Path):
        write_local_parts(path, parts, durable=durable)
        return
    copy, needed = cache_folder() / "files" / writing_name(), sum(memoryview(part).nbytes for part in parts)
    make_folder(copy.parent)
    make_room(copy, needed)
    try:
        with node_errors(copy, needed), copy.open("xb") as file:
            file.writelines(parts)
        upload(copy, path)
    finally:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)


def _fetch_file(path: StoragePath, copy: Path) -> bool:
    """False where there is none."""
    needed = size_of(path)
    if needed is None:
        return False
    make_folder(copy.parent)
    make_room(copy, needed)
    with node_errors(copy, needed, NO_ROOM):
        return download(path, copy)


def take_fetched() -> list[str]:
    """A line for each folder that this process has fetched since the last call, with its size and how long it took."""
    lines = [*_fetched]
    _fetched.clear()
    return lines


def _fetch(folder: StoragePath, here: Path) -> None:
    """Copy the folder here: whole, checked, by one rename. A transfer that changed something is made once more.

    What has the name here is no whole copy, or was changed since.
    """
    started = time.monotonic()
    if here.exists():
        with node_errors(here):
            remove(here)
    content = read_bytes(folder / MANIFEST)
    if content is None:
        raise damaged(folder, f"{MANIFEST} is missing")
    files = parse_manifest(folder, content)["files"]
    needed = sum(_size(folder, name) for name in files) + len(content)
    make_room(here, needed)
    for _ in range(_TRANSFERS):
        copy = here.with_name(writing_name())
        try:
            with node_errors(copy, needed):
                copy.mkdir()
            with node_errors(copy, needed, NO_ROOM):
                wrong = _copy(folder, files, copy)
                if not wrong:
                    (copy / MANIFEST).write_bytes(content)
                    _put_in_place(copy, here)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        if not wrong:
            sealed.mark_verified(here)
            seconds = time.monotonic() - started
            _fetched.append(f"fetched {folder} ({needed:,} bytes) to {here.parent} in {seconds:.1f} s")
            return
    raise damaged(folder, wrong)


def _size(folder: StoragePath, name: str) -> int:
    found = size_of(folder / name)
    if found is None:
        raise damaged(folder, f"{name} is missing")
    return found


def _copy(folder: StoragePath, files: Mapping[str, str], copy: Path) -> str:
    """What is wrong with what came; empty where all is right."""
    for name, expected in files.items():
        if not download(folder / name, copy / name):
            raise damaged(folder, f"{name} is missing")
        came = sha256_of(copy / name)
        if came != expected:
            return f"{name} has SHA-256 {came[:12]}... instead of {expected[:12]}..."
    return ""


def _put_in_place(copy: Path, here: Path) -> None:
    try:
        copy.rename(here)
    except OSError as error:  # where there are no locks another process may have been first
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
