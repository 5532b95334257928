"""The job's working folder, made on this machine: exactly the parcel's files, named by what they hold.

It stays in the cache, so that the plain `ray job submit` line works from it. Knows nothing of studies.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from raystudy.artifacts.node_room import cache_folder
from raystudy.errors import RaystudyError

_KEPT_SECONDS = 7 * 24 * 3600.0


def content_digest(files: Mapping[PurePosixPath, Path]) -> str:
    """12 hexadecimal digits of what the files hold and of their places."""
    whole = hashlib.sha256()
    for place in sorted(files):
        with files[place].open("rb") as file:
            part = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{place}\0{part}\n".encode())
    return whole.hexdigest()[:12]


def stage(files: Mapping[PurePosixPath, Path], name: str) -> Path:
    """A folder with exactly these files, `<cache>/submitted/<name>-<digest>`; one that is there and whole is used.

    Raises:
        RaystudyError: it cannot be written.
    """
    above = cache_folder() / "submitted"
    try:
        above.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_old(above)
        folder = above / f"{name}-{content_digest(files)}"
        if _is_whole(folder, files):
            os.utime(folder)
            return folder
        partial = Path(tempfile.mkdtemp(prefix=".making-", dir=above))
        for place, file in files.items():
            (partial / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, partial / place)
        try:
            partial.rename(folder)
        except OSError:  # another submission was faster, or somebody has changed it
            if not _is_whole(folder, files):
                shutil.rmtree(folder)
                partial.rename(folder)
            shutil.rmtree(partial, ignore_errors=True)
        return folder
    except OSError as error:
        raise RaystudyError(
            f"the job's working folder must be made in {above}, but: {error.strerror or error}. Make room there, or "
            f"set RAYSTUDY_CACHE to another folder"
        ) from error


def _is_whole(folder: Path, files: Mapping[PurePosixPath, Path]) -> bool:
    if not folder.is_dir():
        return False
    there = {
        PurePosixPath(file.relative_to(folder).as_posix()): file for file in folder.rglob("*") if not file.is_dir()
    }
    return there.keys() == files.keys() and content_digest(there) == content_digest(files)


def _remove_old(above: Path) -> None:
    for folder in above.iterdir():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(folder)
