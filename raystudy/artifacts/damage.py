"""Keeps what is damaged aside: renamed to `<name>.bad-<n>`, never deleted, so that it can be made anew.

Two launches may meet the same damage at once, and the slower one must not move what the faster one has made anew.
No file system renames "only if it is still that file". So: note which file was found damaged (`look`), rename, and see
what was moved; if it was another file, put it back. Nothing is ever replaced or removed, whatever the order.

On a remote storage the damaged content is copied and then removed on the condition that it is still that object, which
S3 sees to; a store that does not know the condition has a gap of one call there. Knows nothing of what the files mean.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy.artifacts import remote_files
from raystudy.artifacts.files import StoragePath, json_files, parse_json, read_bytes, storage_errors
from raystudy.errors import StorageError, UnreadableError

if TYPE_CHECKING:
    from upath import UPath

Look = tuple[Any, ...] | None
_CONTENT = "content"  # a look at a remote object that was read: its content tells it apart, which costs no call


def look(path: StoragePath) -> Look:
    """What tells the file or folder at `path` from a later one of that name; None where there is none.

    To be taken before the content is read.
    """
    if not isinstance(path, Path):
        found = remote_files.info(path)
        return _look_at_objects(remote_files.below(path)) if found is None else (found.identity, found.num_bytes)
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_dev, status.st_mtime_ns  # a number alone is given again to the next file


def read_seen(path: StoragePath) -> tuple[bytes | None, Look]:
    """The content of a file, None where there is none, and what tells that file from a later one of its name.

    Raises:
        UnreadableError: it cannot be read.
    """
    seen = look(path) if isinstance(path, Path) else None
    content = read_bytes(path)
    return content, seen if isinstance(path, Path) else look_at_content(content)


def look_at_content(content: bytes | None) -> Look:
    """The look at a remote object with this content."""
    return None if content is None else (_CONTENT, remote_files.fingerprint(content))


def _look_at_objects(objects: Mapping[str, remote_files.Found]) -> Look:
    return tuple(sorted((name, each.identity) for name, each in objects.items())) or None


def set_aside(path: StoragePath, seen: Look) -> StoragePath | None:
    """Rename `path` to the first free `<name>.bad-<n>`; None when it is no longer what was `seen`.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    if not isinstance(path, Path):
        return None if seen is None else _set_object_aside(path, seen)
    if seen is None or look(path) != seen:
        return None
    moved = path.with_name(f".aside-{uuid.uuid4().hex}")  # no name that leftovers.py removes
    with storage_errors(path):
        try:
            path.rename(moved)
        except FileNotFoundError:
            return None
        if look(moved) == seen:
            return _rename_to_free(moved, lambda number: path.with_name(f"{path.name}.bad-{number}"))
        _put_back(moved, path)
    return None


def _set_object_aside(path: "UPath", seen: tuple[Any, ...]) -> "UPath | None":
    found = remote_files.info(path)
    if found is None:
        objects = remote_files.below(path)
        if _look_at_objects(objects) != seen:
            return None
        number = 0
        while remote_files.exists(path.with_name(f"{path.name}.bad-{number}")):
            number += 1
        target = path.with_name(f"{path.name}.bad-{number}")
        return target if remote_files.move_seen(path, target, objects) else None
    content = remote_files.read(path)
    if content is None or seen not in ((found.identity, found.num_bytes), look_at_content(content)):
        return None
    number = 0
    while not remote_files.write(path.with_name(f"{path.name}.bad-{number}"), content, exclusive=True):
        number += 1
    remote_files.remove_if(path, found.identity)
    return path.with_name(f"{path.name}.bad-{number}")


def _put_back(moved: Path, path: Path) -> None:
    """Undo a rename that hit what another launch had just made anew."""
    if moved.is_dir():
        with contextlib.suppress(OSError):  # made anew once more: that one counts, ours is kept beside it
            moved.rename(path)
            return
        _rename_to_free(moved, lambda number: path.with_name(f"{path.name}.bad-{number}"))
        return
    with contextlib.suppress(FileExistsError):
        os.link(moved, path)
    moved.unlink()


def _rename_to_free(moved: Path, name: Callable[[int], Path]) -> Path:
    number = 0
    while True:
        target = name(number)
        try:
            if moved.is_dir():
                if not target.exists():
                    moved.rename(target)  # fails on a folder that is not empty
                    return target
            else:
                os.link(moved, target)
                moved.unlink()
                return target
        except OSError:
            if not target.exists():
                raise
        number += 1


def set_torn_json_aside(folder: StoragePath) -> list[str]:
    """Set aside every `*.json` in a study's `folder` that is not JSON; one line for each.

    The preregistration stays, and so does what is frozen: no launch can make them anew as they were, and a study must
    come neither unlocked nor unfrozen by damage.
    """
    lines = []
    for path in json_files(folder):
        if path.name in ("lock.json", "frozen.json"):
            continue
        content, seen = read_seen(path)
        try:
            parse_json(content or b"", path)
        except UnreadableError:
            raise
        except StorageError as error:
            aside = None if content is None else set_aside(path, seen)
            if aside is not None:
                lines.append(f"{error}; kept as {aside.name} and made again")
    return lines
