"""What lies on a storage, in items that are used or removed as a whole, with their bytes. Removes items.

Knows nothing of which study uses what.
"""

import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raystudy.artifacts.files import read_json, storage_errors
from raystudy.errors import StorageError

_LEFT_OVER = re.compile(r"\.writing-.*|.*\.bad-[^.]*")  # torn writes, and what was kept aside
_KINDS = {"shards": "shards", "built": "pointers", "floors": "floors", "runs": "runs", "studies": "studies"}


@dataclass(frozen=True)
class Item:
    """A folder or file with one use. `kind`: shards, pointers, floors, runs, studies or left-over.

    `name` is a digest (of floors their recipe's), a run id or a folder's name. `parts` are the bytes by kind of
    content, what is left over not counted.
    """

    kind: str
    name: str
    path: Path
    parts: Counter[str] = field(default_factory=Counter)

    @property
    def num_bytes(self) -> int:
        """All bytes of the item."""
        return self.parts.total()


def inventory(root: Path) -> list[Item]:
    """Every item on the storage at `root`; what is left over inside others is an item of its own.

    Raises:
        StorageError: a folder cannot be read.
    """
    try:
        return [
            item for folder, kind in _KINDS.items() for path in _entries(root / folder) for item in _items(kind, path)
        ]
    except OSError as error:
        raise StorageError(f"the storage must be readable, but {error.filename}: {error.strerror}") from error


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _items(kind: str, path: Path) -> Iterator[Item]:
    # A study may well be called `x.bad-1`; no study's folder begins with a dot.
    if _LEFT_OVER.fullmatch(path.name) and (kind != "studies" or path.name.startswith(".")):
        yield _left_over(path)
        return
    parts: Counter[str] = Counter()
    for found in _inside(path):
        if _LEFT_OVER.fullmatch(found.name) and found != path:
            yield _left_over(found)
        else:
            parts[_part(kind, found)] += _size(found)
    yield Item(kind, path.stem if kind == "pointers" else path.name, path, parts)


def _inside(path: Path) -> Iterator[Path]:
    """The files at or below `path`, links not followed; what is left over as a whole, whatever it holds."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for child in sorted(path.iterdir()):
        if _LEFT_OVER.fullmatch(child.name):
            yield child
        else:
            yield from _inside(child)


def _left_over(path: Path) -> Item:
    return Item("left-over", path.name, path, Counter({"left over": _size(path)}))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    return path.lstat().st_size


def _part(kind: str, file: Path) -> str:
    if kind != "runs":
        return kind
    if file.parent.name in ("eval", "tasks"):
        return "evaluations"
    return {"curve.jsonl": "curves"}.get(file.name, "weights" if file.name.startswith("weights-") else "records")


def pointer_target(item: Item) -> str | None:
    """The digest of the shards that a pointer points to; None for a torn one."""
    try:
        value = read_json(item.path)
    except StorageError:
        return None
    found = value.get("digest") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def remove(item: Item) -> None:
    """Remove an item, first from sight by one rename, so that nothing half-removed is ever taken for whole.

    Raises:
        StorageError: the storage refuses.
    """
    with storage_errors(item.path):
        if not item.path.is_symlink() and not item.path.exists():
            return  # it lay in another item that is gone
        out_of_sight = item.path.with_name(f".writing-removed-{uuid.uuid4().hex}")
        item.path.rename(out_of_sight)
        if out_of_sight.is_dir() and not out_of_sight.is_symlink():
            shutil.rmtree(out_of_sight)
        else:
            out_of_sight.unlink()
