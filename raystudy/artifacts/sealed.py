"""Sealed folders: written whole or not at all, with a manifest that lists the SHA-256 of every file.

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

from raystudy.artifacts.files import storage_errors, sync_folder, unreadable, writing_name
from raystudy.errors import DamagedError

MANIFEST = "manifest.json"
_verified: set[Path] = set()  # folders whose checksums this process has found right


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def write_sealed(folder: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """Write `contents` (file name: bytes) and the manifest as `folder`; if it is there already, the first wins.

    Raises:
        UnwritableError: the storage cannot be written.
        DamagedError: the folder is there, but has no manifest.
    """
    if (folder / MANIFEST).exists():
        return
    files = {name: sha256(content) for name, content in contents.items()}
    sealed = json.dumps({**manifest, "files": files}, indent=1, allow_nan=False).encode()
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / writing_name()
        temporary.mkdir()
        try:
            for name, content in {**contents, MANIFEST: sealed}.items():
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


def open_sealed(folder: Path, verify: bool = True) -> dict[str, Any]:
    """The folder's manifest; with `verify` every file's SHA-256 is compared, once per folder and process.

    Raises:
        DamagedError: the folder, its manifest or a file is missing or is not what was written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files: dict[str, str] = dict(manifest["files"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(folder, f"{MANIFEST} is missing") from error
    except OSError as error:
        raise unreadable(folder / MANIFEST, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} is torn or foreign") from error
    if verify and folder.resolve() not in _verified:
        for name, expected in files.items():
            _compare(folder, name, expected)
        _verified.add(folder.resolve())
    return dict(manifest)


def verify_again(folder: Path) -> None:
    """Compare every checksum, also of a folder that this process has found right before; raises as `open_sealed`."""
    _verified.discard(folder.resolve())
    open_sealed(folder)


def _compare(folder: Path, name: str, expected: str) -> None:
    if Path(name).name != name:
        raise damaged(folder, f"{MANIFEST} names {name!r}, which is no file of it")
    try:
        came = sha256((folder / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(folder, f"{name} is missing") from error
    except OSError as error:
        raise unreadable(folder / name, error) from error
    if came != expected:
        raise damaged(folder, f"{name} has SHA-256 {came[:12]}... instead of {str(expected)[:12]}...")


def damaged(folder: Path, found: str) -> DamagedError:
    """The error for a sealed folder that is not whole."""
    return DamagedError(
        f"{folder} must hold shards as they were written, but {found}. Run the study again: it keeps the folder aside "
        f"and builds it anew",
        folder,
    )
