"""Files on a local storage: whole or absent, first writer wins, errors with a way out.

Knows nothing of what the files mean.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raystudy.artifacts.processes import place_tag
from raystudy.errors import StorageError, UnreadableError, UnwritableError

# What the system says when no write would succeed: no room, no quota, a file size limit, read-only.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_CANNOT_SYNC_FOLDERS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing `path` into a message for the user.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path | str, error: OSError) -> UnwritableError:
    """The error for a storage that cannot be written at `path`."""
    return UnwritableError(
        f"the storage must be writable, but {path}: {error.strerror or error}. Make room and rights there or choose "
        f"another folder with --storage; finished runs are kept, and the same command goes on from them"
    )


def writing_name() -> str:
    """A name of its own for something that is being written; leftovers.py removes it if its writer dies."""
    return f".writing-{place_tag()}-{os.getpid()}-{uuid.uuid4().hex}"


def write_bytes(path: Path, content: bytes, *, exclusive: bool = False, durable: bool = True) -> bool:
    """Write `content` so that a reader sees the whole file or none.

    With `exclusive` the first writer wins (POSIX link); False is returned when another was first. Where a file need
    not survive a crash of the machine before the next durable one in its folder does, `durable=False` saves time.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, opened the ordinary way so that the user's umask decides who may read it.
        partial = path.with_name(writing_name())
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if exclusive:
                os.link(partial, path)
            else:
                os.replace(partial, path)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):  # what made the write fail is told, not this
                partial.unlink(missing_ok=True)
        if durable:
            sync_folder(path.parent)
            sync_folder(path.parent.parent)
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


def write_json(path: Path, value: Any, *, exclusive: bool = False, durable: bool = True) -> bool:
    """Write `value` as JSON text, as `write_bytes` does; NaN and infinities are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return write_bytes(path, (text + "\n").encode(), exclusive=exclusive, durable=durable)


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or None where there is no file.

    Raises:
        UnreadableError: the system does not let it be read.
        StorageError: the file is torn or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} must be JSON, but is torn or foreign ({error})") from error
    except OSError as error:
        raise unreadable(path, error) from error


def names_in(folder: Path) -> list[str]:
    """The names in `folder`, in any order; none where there is no such folder.

    Raises:
        UnreadableError: the system does not let it be listed.
    """
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error


def json_files(folder: Path) -> list[Path]:
    """The files `*.json` in `folder`, sorted by name; raises as `names_in`."""
    return [folder / name for name in sorted(names_in(folder)) if name.endswith(".json")]


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """The error for something that is there and cannot be read."""
    return UnreadableError(f"{path} cannot be read: {error.strerror}. Check the storage and the rights there")
