"""Files on a storage: whole or absent, first writer wins, errors with a way out.

All reading and writing on a storage goes through here. A local path (also on NFS) is a `pathlib.Path`, one on a remote
storage a `UPath`: `local_files` and `remote_files` say how each is done. Knows nothing of what the files mean.
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from raystudy.artifacts import local_files, remote_files
from raystudy.artifacts.local_files import NO_ROOM as NO_ROOM
from raystudy.artifacts.local_files import storage_errors as storage_errors
from raystudy.artifacts.local_files import sync_folder as sync_folder
from raystudy.artifacts.local_files import unreadable as unreadable
from raystudy.artifacts.local_files import unwritable as unwritable
from raystudy.artifacts.local_files import writing_name as writing_name
from raystudy.errors import StorageError

if TYPE_CHECKING:
    from upath import UPath

    StoragePath: TypeAlias = Path | UPath
else:
    StoragePath = Path  # universal_pathlib and fsspec take most of a second to load; a local storage needs neither


def is_remote(path: StoragePath) -> "TypeGuard[UPath]":
    """Whether `path` lies on a remote storage."""
    return not isinstance(path, Path)


def write_bytes(path: StoragePath, content: bytes, *, exclusive: bool = False, durable: bool = True) -> bool:
    """Write `content` so that a reader sees the whole file or none.

    With `exclusive` the first writer wins (POSIX link; conditional PUT); False is returned when another was first. On
    a remote storage, where the answer to one's own PUT may be lost, an object of this very content counts as one's own.
    Where a file need not survive a crash of the machine before the next durable one in its folder does,
    `durable=False` saves time; an object is durable once it is written.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    if isinstance(path, Path):
        return local_files.write(path, [content], exclusive=exclusive, durable=durable)
    return remote_files.write(path, content, exclusive=exclusive)


def broken_promise(path: StoragePath) -> str:
    """What the storage does not keep of what raystudy rests on, tried at `path`, where nothing is and a file is left.

    Empty where of two writers the first wins, and what was written is read and listed.

    Raises:
        UnwritableError, UnreadableError: it cannot be written, or read.
    """
    # Of another content: an equal one counts as one's own on a remote storage.
    first, second = (write_bytes(path, content, exclusive=True) for content in (b"first", b"second"))
    if not first or second:
        return "a second writer replaces the first, so that results could be lost"
    if read_bytes(path) != b"first":
        return "what was written there is not read back"
    return "" if path.name in names_in(path.parent) else "what was written there is not listed"


def write_local_parts(path: Path, parts: Iterable[bytes | memoryview], *, durable: bool = True) -> None:
    """Write a local file of `parts`, end to end, as `write_bytes` does, without holding all of it in memory.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    local_files.write(path, parts, exclusive=False, durable=durable)


def write_json(path: StoragePath, value: Any, *, exclusive: bool = False, durable: bool = True) -> bool:
    """Write `value` as JSON text, as `write_bytes` does; NaN and infinities are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return write_bytes(path, (text + "\n").encode(), exclusive=exclusive, durable=durable)


def read_bytes(path: StoragePath) -> bytes | None:
    """The content of the file at `path`, or None where there is none.

    Raises:
        UnreadableError: it cannot be read.
    """
    return local_files.read(path) if isinstance(path, Path) else remote_files.read(path)


def read_range(path: StoragePath, start: int, end: int) -> bytes:
    """Bytes `start` .. `end` - 1 of the file at `path`, fewer where it ends before.

    Raises:
        OSError, UnreadableError: there is no such file, or it cannot be read.
    """
    if not isinstance(path, Path):
        return remote_files.read_range(path, start, end)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def read_many(paths: Sequence[StoragePath]) -> list[bytes | None]:
    """The contents of many files of one storage, in their order, of a remote one many at a time; as `read_bytes`."""
    remote = [path for path in paths if is_remote(path)]
    return remote_files.read_many(remote) if remote else [read_bytes(path) for path in paths]


def read_json(path: StoragePath) -> Any:
    """The JSON value in `path`, or None where there is no file.

    Raises:
        UnreadableError: the storage does not let it be read.
        StorageError: the file is torn or is not JSON.
    """
    content = read_bytes(path)
    return None if content is None else parse_json(content, path)


def parse_json(content: bytes, path: object) -> Any:
    """The JSON value in the `content` of the file at `path`; raises StorageError where it is torn or is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} must be JSON, but is torn or foreign ({error})") from error


def names_in(folder: StoragePath) -> list[str]:
    """The names in `folder`, in any order; none where there is no such folder.

    Raises:
        UnreadableError: the storage does not let it be listed.
    """
    return local_files.names(folder) if isinstance(folder, Path) else remote_files.names(folder)


def json_files(folder: StoragePath) -> list[StoragePath]:
    """The files `*.json` in `folder`, sorted by name; raises as `names_in`."""
    return [folder / name for name in sorted(names_in(folder)) if name.endswith(".json")]


def exists(path: StoragePath) -> bool:
    """Whether there is a file or a folder at `path`; on a remote storage a folder is what holds an object."""
    return path.exists() if isinstance(path, Path) else remote_files.exists(path)


def is_folder(path: StoragePath) -> bool:
    """Whether there is a folder at `path`."""
    return path.is_dir() if isinstance(path, Path) else remote_files.is_folder(path)


def size_of(path: StoragePath) -> int | None:
    """Bytes of the file at `path`, or None where there is none; raises UnreadableError."""
    if isinstance(path, Path):
        return local_files.size(path)
    found = remote_files.info(path)
    return None if found is None else found.num_bytes


def remove_file(path: StoragePath) -> None:
    """Remove the file at `path`, if there is one; raises UnwritableError."""
    if isinstance(path, Path):
        with storage_errors(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
    else:
        remote_files.remove(path)


def remove_folder(folder: StoragePath) -> None:
    """Remove `folder` and all it holds, if it is there; on a remote storage first what makes it whole.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    if isinstance(folder, Path):
        with storage_errors(folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)
    else:
        remote_files.remove_below(folder)


def move(path: StoragePath, to: StoragePath) -> bool:
    """Give a file or folder another name on the same storage; False where there is none.

    On a remote storage that is a copy and a removal, object by object.

    Raises:
        UnwritableError: the storage cannot be written, or a folder that is not empty has that name.
    """
    if isinstance(path, Path) and isinstance(to, Path):
        return local_files.move(path, to)
    return remote_files.move(cast("UPath", path), cast("UPath", to))


def upload(local: Path, to: StoragePath, *, exclusive: bool = False) -> bool:
    """Write the content of a `local` file to the storage, as `write_bytes` does, without holding it in memory.

    Raises:
        UnwritableError: the storage cannot be written, or the local file cannot be read.
    """
    if isinstance(to, Path):
        return local_files.upload(local, to, exclusive=exclusive)
    return remote_files.upload(local, to, exclusive=exclusive)


def download(path: StoragePath, local: Path) -> bool:
    """Put the content of a file of the storage into the file `local`, whole or not at all; False where there is none.

    Raises:
        UnreadableError: the storage does not let it be read.
        OSError: the local file cannot be written.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    partial = local.with_name(writing_name())
    try:
        if isinstance(path, Path):
            shutil.copyfile(path, partial)
        elif not remote_files.download(path, partial):
            return False
        os.replace(partial, local)
    except FileNotFoundError:
        return False
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return True
