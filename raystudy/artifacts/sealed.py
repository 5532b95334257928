"""Sealed folders: written whole or not at all, with a manifest that lists the SHA-256 of every file.

On a remote storage the manifest is written last and makes the folder. To read shards of one see node_cache.py.

Knows nothing of what the files mean.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import (
    StoragePath,
    exists,
    read_bytes,
    read_range,
    size_of,
    storage_errors,
    sync_folder,
    unreadable,
    write_bytes,
    writing_name,
)
from raystudy.errors import DamagedError

MANIFEST = "manifest.json"
_PART_BYTES = 2**26  # of a file on a remote storage
_verified: set[str] = set()  # folders whose checksums this process has found right


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a local file, of which only a part is in memory at a time."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_sealed(folder: StoragePath, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """Write `contents` (file name: bytes) and the manifest as `folder`; if it is there already, the first wins.

    Raises:
        UnwritableError: the storage cannot be written.
        DamagedError: the folder is there, but has no manifest.
    """
    if exists(folder / MANIFEST):
        return
    files = {name: sha256(content) for name, content in contents.items()}
    sealed = json.dumps({**manifest, "files": files}, indent=1, allow_nan=False).encode()
    if isinstance(folder, Path):
        _write_local(folder, {**contents, MANIFEST: sealed})
        return
    # There are no folders to rename. Without its manifest, which comes last, nothing there counts; of writers at once
    # all write the same.
    for name, content in contents.items():
        write_bytes(folder / name, content)
    write_bytes(folder / MANIFEST, sealed, exclusive=True)


def _write_local(folder: Path, contents: Mapping[str, bytes]) -> None:
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / writing_name()
        temporary.mkdir()
        try:
            for name, content in contents.items():
                with (temporary / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _rename_unless_there(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _rename_unless_there(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError as error:
        # A folder that is not empty cannot be replaced: somebody else's, which counts if it is whole.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not (folder / MANIFEST).exists():
            raise damaged(folder, f"{MANIFEST} is missing") from error
        return
    sync_folder(folder.parent)


def is_sealed(folder: StoragePath) -> bool:
    """Whether the folder is there, whole or damaged; on a remote storage its manifest is what makes one."""
    return folder.is_dir() if isinstance(folder, Path) else exists(folder / MANIFEST)


def open_sealed(folder: StoragePath, verify: bool = True) -> dict[str, Any]:
    """The folder's manifest; with `verify` every file's SHA-256 is compared, once per folder and process.

    Raises:
        DamagedError: the folder, its manifest or a file is missing or is not what was written.
    """
    content = read_bytes(folder / MANIFEST)
    if content is None:
        raise damaged(folder, f"{MANIFEST} is missing")
    manifest = parse_manifest(folder, content)
    if verify and _name_of(folder) not in _verified:
        for name, expected in manifest["files"].items():
            _compare(folder, name, expected)
        mark_verified(folder)
    return manifest


def parse_manifest(folder: StoragePath, content: bytes) -> dict[str, Any]:
    """The manifest that `folder` holds as `content`; its `files` are names of files and their SHA-256.

    Raises:
        DamagedError: it is torn or foreign, or names what is no file of the folder.
    """
    try:
        manifest = json.loads(content)
        files = dict(manifest["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} is torn or foreign") from error
    for name, checksum in files.items():
        if Path(name).name != name or not isinstance(checksum, str):
            raise damaged(folder, f"{MANIFEST} names {name!r}, which is no file of it")
    return {**manifest, "files": files}


def mark_verified(folder: StoragePath) -> None:
    """Note that this process has found the folder's checksums right."""
    _verified.add(_name_of(folder))


def verify_again(folder: StoragePath) -> None:
    """Compare every checksum, also of a folder that this process has found right before; raises as `open_sealed`."""
    _verified.discard(_name_of(folder))
    open_sealed(folder)


def _name_of(folder: StoragePath) -> str:
    return str(folder.resolve() if isinstance(folder, Path) else folder)


def _compare(folder: StoragePath, name: str, expected: str) -> None:
    try:
        came = _checksum(folder / name)
    except OSError as error:
        raise unreadable(folder / name, error) from error
    if came is None:
        raise damaged(folder, f"{name} is missing")
    if came != expected:
        raise damaged(folder, f"{name} has SHA-256 {came[:12]}... instead of {expected[:12]}...")


def _checksum(file: StoragePath) -> str | None:
    """SHA-256 of a file, of which only a part is in memory at a time; None where there is none."""
    if isinstance(file, Path):
        try:
            return sha256_of(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
    size, found = size_of(file), hashlib.sha256()
    for start in range(0, size or 0, _PART_BYTES):
        found.update(read_range(file, start, min(start + _PART_BYTES, size or 0)))
    return None if size is None else found.hexdigest()


def damaged(folder: StoragePath, found: str) -> DamagedError:
    """The error for a sealed folder that is not whole."""
    return DamagedError(
        f"{folder} must hold shards as they were written, but {found}. Run the study again: it keeps the folder aside "
        f"and builds it anew",
        folder,
    )
