"""What lies on a storage, in items that are used or removed as a whole, with their bytes. Removes items.

An item has a name that raystudy gives, and runs and studies hold at least one file that it writes. Whatever else lies
there is foreign, and not raystudy's to remove. Knows nothing of which study uses what. What vanishes while it is looked
at, as running studies make files vanish, is left out.
"""

import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from raystudy.artifacts.files import read_json, storage_errors
from raystudy.errors import StorageError

_HEX = "[0-9a-f]{32}"
_TORN = rf"\.writing-([0-9a-f]{{8}}-[0-9]+|removed)-{_HEX}|\.aside-{_HEX}"
_LEFT_OVER = re.compile(rf"{_TORN}|{_HEX}(\.json)?\.bad-[0-9]+")  # torn writes, and what was kept aside
_LEFT_OVER_INSIDE = re.compile(rf"{_TORN}|[A-Za-z0-9-]+\.(json|jsonl|safetensors)\.bad-[0-9]+")
_KINDS = {"shards": "shards", "built": "pointers", "floors": "floors", "runs": "runs", "studies": "studies"}
_NAMES = {
    "shards": re.compile(_HEX),
    "pointers": re.compile(rf"{_HEX}\.json"),
    "floors": re.compile(_HEX),
    "runs": re.compile(_HEX),
    "studies": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"),
}
_HOLDS = {  # one of these, or nothing at all
    "runs": re.compile(
        r"(spec|result)\.json|curve\.jsonl|(weights-[0-9]+(-[0-9a-f]{16})?|branch-[0-9]+|checkpoint)\.safetensors"
        r"|eval|tasks|attempts"
    ),
    "studies": re.compile(r"(study|lock|frozen|progress|comparison)\.json|study\.yaml|report\.html|driver"),
}
# Of a run's folders; `work` is a command's, with what its trainer keeps there.
_FOLDERS = {"eval": "evaluations", "tasks": "evaluations", "checkpoints": "checkpoints", "work": "work"}


@dataclass(frozen=True)
class Item:
    """A folder or file with one use. `kind`: shards, pointers, floors, runs, studies, left-over or foreign.

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
        StorageError: a folder cannot be read, or nothing at `root` is raystudy's.
    """
    try:
        items = [
            item for folder, kind in _KINDS.items() for path in _entries(root / folder) for item in _items(kind, path)
        ]
    except OSError as error:
        raise StorageError(f"the storage must be readable, but {error.filename}: {error.strerror}") from error
    if all(item.kind == "foreign" for item in items):
        raise StorageError(
            f"a storage must hold a study, runs or shards of raystudy, but {root} holds none. Name it with --storage"
        )
    return items


def _entries(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(folder.iterdir()) if folder.is_dir() else []
    return []


def _items(kind: str, path: Path) -> Iterator[Item]:
    # A study may well be called `x.json.bad-1`; no study's folder begins with a dot.
    if _LEFT_OVER.fullmatch(path.name) and (kind != "studies" or path.name.startswith(".")):
        yield _whole("left-over", path)
        return
    if not _is_ours(kind, path):
        yield _whole("foreign", path)
        return
    parts: Counter[str] = Counter()
    for found in _inside(path):
        if found != path and _LEFT_OVER_INSIDE.fullmatch(found.name):
            yield _whole("left-over", found)
        else:
            parts[_part(kind, found.relative_to(path))] += _size(found)
    yield Item(kind, path.stem if kind == "pointers" else path.name, path, parts)


def _inside(path: Path) -> Iterator[Path]:
    """The files at or below `path`, links not followed; what is left over as a whole, whatever it holds."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for child in _entries(path):
        if _LEFT_OVER_INSIDE.fullmatch(child.name):
            yield child
        else:
            yield from _inside(child)


def _is_ours(kind: str, path: Path) -> bool:
    if not _NAMES[kind].fullmatch(path.name) or path.is_dir() != (kind != "pointers"):
        return False
    if kind not in _HOLDS:
        return True
    names = [child.name for child in _entries(path) if not _LEFT_OVER_INSIDE.fullmatch(child.name)]
    return not names or any(_HOLDS[kind].fullmatch(name) for name in names)


def _whole(kind: str, path: Path) -> Item:
    return Item(kind, path.name, path, Counter({kind: _size(path)}))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size_of_file(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)
    return _size_of_file(path)


def _size_of_file(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0


def _part(kind: str, file: Path) -> str:
    """What kind of content a file of an item is; `file`: where it lies in the item."""
    if kind != "runs":
        return kind
    if len(file.parts) > 1:
        return _FOLDERS.get(file.parts[0], "records")
    if file.name.startswith(("weights-", "branch-")):
        return "weights"
    return {"curve.jsonl": "curves", "checkpoint.safetensors": "checkpoints"}.get(file.name, "records")


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
        try:
            item.path.rename(out_of_sight)
        except FileNotFoundError:
            return  # somebody else was first
        if out_of_sight.is_dir() and not out_of_sight.is_symlink():
            shutil.rmtree(out_of_sight)
        else:
            out_of_sight.unlink()
