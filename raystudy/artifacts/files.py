"""Files on a local storage: whole or absent, first writer wins, errors with a way out.

Knows nothing of what the files mean.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raystudy.errors import StorageError


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a message for the user."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the storage must be writable, but {path}: {error.strerror or error}. "
            f"Choose another folder with --storage, or make room and rights there"
        ) from error


def write_bytes(path: Path, content: bytes, *, exclusive: bool = False) -> bool:
    """Write `content` so that a reader sees the whole file or none.

    With `exclusive` the first writer wins (POSIX link); False is returned when another was first.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, opened the ordinary way so that the user's umask decides who may read it.
        partial = path.with_name(f".writing-{os.getpid()}-{uuid.uuid4().hex}")
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if not exclusive:
                os.replace(partial, path)
                return True
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            return True
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, exclusive: bool = False) -> bool:
    """Write `value` as JSON text; NaN and infinities are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return write_bytes(path, (text + "\n").encode(), exclusive=exclusive)


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or None where there is no file.

    Raises:
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
        raise StorageError(f"{path} cannot be read: {error.strerror}. Check the storage") from error
