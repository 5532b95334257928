"""Sealed folders: written whole or not at all, with a manifest that lists the SHA-256 of every file.

Knows nothing of what the files mean.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import storage_errors
from raystudy.errors import DataError

MANIFEST = "manifest.json"
_verified: set[Path] = set()  # folders whose checksums this process has found right


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def write_sealed(folder: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """Write `contents` (file name: bytes) and the manifest as `folder`; if it is there already, the first wins.

    Raises:
        StorageError: the storage cannot be written.
    """
    if (folder / MANIFEST).exists():
        return
    files = {name: sha256(content) for name, content in contents.items()}
    sealed = json.dumps({**manifest, "files": files}, indent=1, allow_nan=False).encode()
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        try:
            for name, content in {**contents, MANIFEST: sealed}.items():
                with (temporary / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.chmod(0o755)
            _rename_unless_there(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _rename_unless_there(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        # A folder that is not empty cannot be replaced: somebody else's, which counts if it is whole.
        if not (folder / MANIFEST).exists():
            raise
        return
    directory = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_sealed(folder: Path, verify: bool = True) -> dict[str, Any]:
    """The folder's manifest; with `verify` every file's SHA-256 is compared, once per folder and process.

    Raises:
        DataError: the folder, its manifest or a file is missing or is not what was written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files: dict[str, str] = dict(manifest["files"])
    except OSError as error:
        raise damaged(folder, f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{MANIFEST} is torn or foreign") from error
    if verify and folder.resolve() not in _verified:
        for name, expected in files.items():
            try:
                came = sha256((folder / name).read_bytes())
            except OSError as error:
                raise damaged(folder, f"{name} cannot be read ({error.strerror})") from error
            if came != expected:
                raise damaged(folder, f"{name} has SHA-256 {came[:12]}... instead of {expected[:12]}...")
        _verified.add(folder.resolve())
    return dict(manifest)


def damaged(folder: Path, found: str) -> DataError:
    """The error for a sealed folder that is not whole."""
    return DataError(
        f"{folder} must hold shards as they were written, but {found}; delete the folder {folder} and build again"
    )
