"""Keeps what is damaged aside: renamed to `<name>.bad-<n>`, never deleted, so that it can be made anew.

Two launches may meet the same damage at once, and the slower one must not move what the faster one has made anew.
No file system renames "only if it is still that file". So: note which file was found damaged (`look`), rename, and see
what was moved; if it was another file, put it back. Nothing is ever replaced or removed, whatever the order.
Knows nothing of what the files mean.
"""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from raystudy.artifacts.files import read_json, storage_errors
from raystudy.errors import StorageError, UnreadableError

Look = tuple[int, int] | None


def look(path: Path) -> Look:
    """What tells the file or folder at `path` from a later one of that name; None where there is none.

    To be taken before the content is read.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_dev


def set_aside(path: Path, seen: Look) -> Path | None:
    """Rename `path` to the first free `<name>.bad-<n>`; None when it is no longer what was `seen`.

    Raises:
        UnwritableError: the storage cannot be written.
    """
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


def set_torn_json_aside(folder: Path) -> list[str]:
    """Set aside every `*.json` in a study's `folder` that is not JSON; one line for each.

    The preregistration stays, and so does what is frozen: no launch can make them anew as they were, and a study must
    come neither unlocked nor unfrozen by damage.
    """
    lines = []
    for path in sorted(set(folder.glob("*.json")) - {folder / "lock.json", folder / "frozen.json"}):
        seen = look(path)
        try:
            read_json(path)
        except UnreadableError:
            raise
        except StorageError as error:
            aside = set_aside(path, seen)
            if aside is not None:
                lines.append(f"{error}; kept as {aside.name} and made again")
    return lines
