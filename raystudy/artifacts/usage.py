"""What lies on a storage, in items that are used or removed as a whole, with their bytes. Removes items.

An item has a name that raystudy gives, and runs and studies hold at least one file that it writes. Whatever else lies
there is foreign, and not raystudy's to remove. Knows nothing of which study uses what. What vanishes while it is looked
at, as running studies make files vanish, is left out.
"""

import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raystudy.artifacts.files import StoragePath, read_json, remove_folder, storage_errors
from raystudy.artifacts.tree import Node, nodes
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
    "studies": re.compile(r"(study|lock|frozen|progress|comparison)\.json|study\.yaml|report\.html|driver|compacted"),
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
    path: StoragePath
    parts: Counter[str] = field(default_factory=Counter)

    @property
    def num_bytes(self) -> int:
        """All bytes of the item."""
        return self.parts.total()


def inventory(root: StoragePath) -> list[Item]:
    """Every item on the storage at `root`; what is left over inside others is an item of its own.

    Raises:
        StorageError: a folder cannot be read, or nothing at `root` is raystudy's.
    """
    try:
        items = [
            item for folder, kind in _KINDS.items() for node in nodes(root / folder) for item in _items(kind, node)
        ]
    except OSError as error:
        raise StorageError(f"the storage must be readable, but {error.filename}: {error.strerror}") from error
    if all(item.kind == "foreign" for item in items):
        raise StorageError(
            f"a storage must hold a study, runs or shards of raystudy, but {root} holds none. Name it with --storage"
        )
    return items


def _items(kind: str, node: Node) -> Iterator[Item]:
    # A study may well be called `x.json.bad-1`; no study's folder begins with a dot.
    if _LEFT_OVER.fullmatch(node.name) and (kind != "studies" or node.name.startswith(".")):
        yield _whole("left-over", node)
        return
    if not _is_ours(kind, node):
        yield _whole("foreign", node)
        return
    parts: Counter[str] = Counter()
    for found, inner in _inside(node, ()):
        if inner and _LEFT_OVER_INSIDE.fullmatch(found.name):
            yield _whole("left-over", found)
        else:
            parts[_part(kind, inner)] += found.num_bytes
    yield Item(kind, node.path.stem if kind == "pointers" else node.name, node.path, parts)


def _inside(node: Node, inner: tuple[str, ...]) -> Iterator[tuple[Node, tuple[str, ...]]]:
    """The files at or below `node` with their place in the item; what is left over as a whole, whatever it holds."""
    if not node.is_folder:
        yield node, inner
        return
    for child in node.below:
        if _LEFT_OVER_INSIDE.fullmatch(child.name):
            yield child, (*inner, child.name)
        else:
            yield from _inside(child, (*inner, child.name))


def _is_ours(kind: str, node: Node) -> bool:
    if not _NAMES[kind].fullmatch(node.name) or node.is_folder != (kind != "pointers"):
        return False
    if kind not in _HOLDS:
        return True
    names = [child.name for child in node.below if not _LEFT_OVER_INSIDE.fullmatch(child.name)]
    return not names or any(_HOLDS[kind].fullmatch(name) for name in names)


def _whole(kind: str, node: Node) -> Item:
    return Item(kind, node.name, node.path, Counter({kind: node.total_bytes()}))


def _part(kind: str, inner: tuple[str, ...]) -> str:
    """What kind of content a file of an item is; `inner`: where it lies in the item."""
    if kind != "runs":
        return kind
    if len(inner) > 1:
        return _FOLDERS.get(inner[0], "records")
    if inner[0].startswith(("weights-", "branch-")):
        return "weights"
    return {"curve.jsonl": "curves", "checkpoint.safetensors": "checkpoints"}.get(inner[0], "records")


def shown_in(path: StoragePath, root: StoragePath) -> str:
    """Where `path` lies below the storage's `root`, to be told."""
    return str(path).removeprefix(str(root)).lstrip("/")


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

    On a remote storage, which cannot rename, what makes a folder whole goes first.

    Raises:
        StorageError: the storage refuses.
    """
    path = item.path
    if not isinstance(path, Path):
        remove_folder(path)
        return
    with storage_errors(path):
        if not path.is_symlink() and not path.exists():
            return  # it lay in another item that is gone
        out_of_sight = path.with_name(f".writing-removed-{uuid.uuid4().hex}")
        try:
            path.rename(out_of_sight)
        except FileNotFoundError:
            return  # somebody else was first
        if out_of_sight.is_dir() and not out_of_sight.is_symlink():
            shutil.rmtree(out_of_sight)
        else:
            out_of_sight.unlink()
