"""Files on a local storage (also on NFS): linked or renamed into place, durable, errors with a way out.

`files` calls this; nobody else needs to. Knows nothing of what the files mean.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raystudy.artifacts.processes import place_tag
from raystudy.errors import UnreadableError, UnwritableError

if TYPE_CHECKING:
    from upath import UPath

# What the system says when no write would succeed: no room, no quota, a file size limit, read-only.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_COPIED_BYTES = 2**22
_CANNOT_SYNC_FOLDERS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})


@contextlib.contextmanager
def storage_errors(path: "Path | UPath") -> Iterator[None]:
    """Turn what the operating system says about writing `path` into a message for the user.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: "Path | UPath | str", error: OSError) -> UnwritableError:
    """The error for a storage that cannot be written at `path`."""
    return UnwritableError(
        f"the storage must be writable, but {path}: {error.strerror or error}. Make room and rights there or choose "
        f"another folder with --storage; finished runs are kept, and the same command goes on from them"
    )


def unreadable(path: "Path | UPath", error: OSError) -> UnreadableError:
    """The error for something that is there and cannot be read."""
    return UnreadableError(f"{path} cannot be read: {error.strerror}. Check the storage and the rights there")


def writing_name() -> str:
    """A name of its own for something that is being written; leftovers.py removes it if its writer dies."""
    return f".writing-{place_tag()}-{os.getpid()}-{uuid.uuid4().hex}"


def write(path: Path, parts: Iterable[bytes | memoryview], *, exclusive: bool, durable: bool) -> bool:
    """Write a file of these parts, end to end; with `exclusive` False is returned where there is one already.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, opened the ordinary way so that the user's umask decides who may read it.
        partial = path.with_name(writing_name())
        try:
            with partial.open("xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            if not _put_in_place(partial, path, exclusive=exclusive):
                return False
        finally:
            with contextlib.suppress(OSError):  # what made the write fail is told, not this
                partial.unlink(missing_ok=True)
        if durable:
            sync_folder(path.parent)
            sync_folder(path.parent.parent)
        return True


def _put_in_place(partial: Path, path: Path, *, exclusive: bool) -> bool:
    """Give a file that is whole its name; False when `exclusive` and there is one of that name."""
    if not exclusive:
        os.replace(partial, path)
        return True
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    return True


def upload(local: Path, to: Path, *, exclusive: bool) -> bool:
    """Copy a file to the storage, as `write` writes one."""
    with storage_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(writing_name())
        try:
            with local.open("rb") as source, partial.open("xb") as target:
                shutil.copyfileobj(source, target, _COPIED_BYTES)
                target.flush()
                os.fsync(target.fileno())
            return _put_in_place(partial, to, exclusive=exclusive)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def read(path: Path) -> bytes | None:
    """The content of a file, or None; raises UnreadableError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def names(folder: Path) -> list[str]:
    """The names in a folder; raises UnreadableError."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error


def size(path: Path) -> int | None:
    """Bytes of a file, or None; raises UnreadableError."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def move(path: Path, to: Path) -> bool:
    """Rename a file or folder; False where there is none; raises UnwritableError."""
    with storage_errors(path):
        try:
            path.rename(to)
        except FileNotFoundError:
            return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a crash of the machine, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)
