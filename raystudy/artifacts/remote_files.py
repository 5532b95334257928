"""Files on a remote storage (s3, gs; memory for tests) through fsspec. `files` calls this; nobody else needs to.

An object is whole or absent, and listings are never taken from a cache. Exclusive creation is a conditional write: of
many writers one wins, by the store's own decision. Retries lie in `remote_retries`.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from raystudy.artifacts.object_stores import CONCURRENCY, delete_the_same, filesystem, one_request
from raystudy.artifacts.remote_retries import patience, patience_seconds, persistently

if TYPE_CHECKING:
    from upath import UPath

T = TypeVar("T")
S = TypeVar("S")

_memory_lock = threading.Lock()  # fsspec's memory looks before it writes, in two steps
# What makes a folder whole goes first, so that nothing half-removed is taken for whole.
_SEALS = ("manifest.json", "result.json", "study.json")


@dataclass(frozen=True)
class Found:
    """An object: its size, and what tells it from a later one of that name (ETag, generation; empty: unknown)."""

    num_bytes: int
    identity: str


def read(path: "UPath") -> bytes | None:
    """The content of an object, or None; raises UnreadableError."""
    more = one_request(path.protocol)
    try:
        return persistently(path, lambda: bytes(filesystem(path).cat_file(path.path, **more)), writes=False)
    except (FileNotFoundError, IsADirectoryError):
        return None


def read_range(path: "UPath", start: int, end: int) -> bytes:
    """Bytes `start` .. `end` - 1 of an object; raises FileNotFoundError or UnreadableError."""
    return persistently(
        path,
        lambda: bytes(filesystem(path).cat_file(path.path, start=start, end=end)) if end > start else b"",
        writes=False,
    )


def read_many(paths: "Iterable[UPath]") -> list[bytes | None]:
    """The contents of many objects, in their order, many at a time; raises UnreadableError."""
    return at_once(read, paths)


def at_once(do: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`do` of every item, in their order, many at a time, with the patience that holds here; raises what it raises."""
    chosen, seconds = list(items), patience_seconds()

    def patiently(item: S) -> T:
        with patience(seconds):
            return do(item)

    if len(chosen) < 2:
        return [do(item) for item in chosen]
    with ThreadPoolExecutor(min(CONCURRENCY, len(chosen)), thread_name_prefix="storage") as pool:
        return list(pool.map(patiently, chosen))


def write(path: "UPath", content: bytes, *, exclusive: bool) -> bool:
    """Write an object; with `exclusive` False is returned where there is one already; raises UnwritableError."""

    def put(mode: str) -> None:
        with _memory_lock if path.protocol == "memory" else nullcontext():
            filesystem(path).pipe_file(path.path, content, mode=mode)

    if not exclusive:
        persistently(path, lambda: put("overwrite"), writes=True)
        return True
    return _create(path, lambda: put("create"), lambda: read(path) == content)


def _create(path: "UPath", create: Callable[[], None], is_ours: Callable[[], bool]) -> bool:
    """Create exclusively. An answer that was lost is told from another writer's object by its content.

    Below us aiohttp, too, sends a call again whose connection was closed, so that even the first refusal may be ours.
    """
    with suppress(FileExistsError):
        persistently(path, create, writes=True)
        return True
    return is_ours()


def upload(local: Path, path: "UPath", *, exclusive: bool) -> bool:
    """Write a local file as an object, as `write` does."""

    def put(mode: str) -> None:
        with _memory_lock if path.protocol == "memory" else nullcontext():
            filesystem(path).put_file(str(local), path.path, mode=mode)

    if not exclusive:
        persistently(path, lambda: put("overwrite"), writes=True)
        return True
    return _create(path, lambda: put("create"), lambda: _sha256(read(path) or b"") == _sha256_of(local))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha256_of(local: Path) -> str:
    with local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(path: "UPath", local: Path) -> bool:
    """Fetch an object into the file `local`; False where there is none; raises UnreadableError or the local OSError."""
    more = one_request(path.protocol) if path.protocol == "gs" else {}  # s3fs does so by itself

    def get() -> None:
        filesystem(path).get_file(path.path, str(local), **more)

    try:
        persistently(path, get, writes=False)
    except FileNotFoundError:
        return False
    return True


def names(folder: "UPath") -> list[str]:
    """The names directly below `folder`, of objects and folders; raises UnreadableError."""

    def listed() -> list[str]:
        return list(filesystem(folder).ls(folder.path, detail=False))

    try:
        found = persistently(folder, listed, writes=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    own = folder.path.strip("/")
    below = (name.strip("/").removeprefix(own).strip("/") for name in found if name.strip("/").startswith(f"{own}/"))
    return [name for name in below if name and "/" not in name]


def below(folder: "UPath", prefix: str = "") -> dict[str, Found]:
    """Every object below `folder` whose path there begins with `prefix`, by that path; raises UnreadableError."""
    more = {"prefix": prefix} if prefix and folder.protocol in ("s3", "gs") else {}

    def found() -> dict[str, dict[str, Any]]:
        return dict(filesystem(folder).find(folder.path, detail=True, withdirs=False, **more))

    try:
        rows = persistently(folder, found, writes=False)
    except FileNotFoundError:
        return {}
    own = folder.path.strip("/") + "/"
    named = {name.strip("/").removeprefix(own): row for name, row in rows.items() if name.strip("/").startswith(own)}
    return {name: _found(row) for name, row in named.items() if name.startswith(prefix)}


def info(path: "UPath") -> Found | None:
    """The object at `path`, or None (also where a folder is); raises UnreadableError."""
    row = _row(path)
    return None if row is None or row.get("type") == "directory" else _found(row)


def exists(path: "UPath") -> bool:
    """Whether there is an object at `path`, or any below it; raises UnreadableError."""
    return _row(path) is not None


def is_folder(path: "UPath") -> bool:
    """Whether there are objects below `path`; raises UnreadableError."""
    row = _row(path)
    return row is not None and row.get("type") == "directory"


def _row(path: "UPath") -> dict[str, Any] | None:
    try:
        return persistently(path, lambda: dict(filesystem(path).info(path.path)), writes=False)
    except FileNotFoundError:
        return None


def _found(row: dict[str, Any]) -> Found:
    tag = row.get("ETag") or row.get("generation") or row.get("etag") or row.get("created") or ""
    # fsspec's memory gives the time as a number in listings, and as a datetime of a single one.
    return Found(int(row.get("size") or 0), str(tag.timestamp() if isinstance(tag, datetime) else tag))


def remove(path: "UPath") -> None:
    """Remove an object; nothing happens where there is none; raises UnwritableError."""
    with suppress(FileNotFoundError):
        persistently(path, lambda: filesystem(path).rm_file(path.path), writes=True)


def remove_below(folder: "UPath") -> None:
    """Remove every object at or below `folder`, first what makes it whole; raises as `remove`."""
    found = below(folder)
    _seals_first(lambda name: remove(folder / name), found)
    if not found:
        remove(folder)


def _seals_first(do: Callable[[str], None], there: Iterable[str]) -> None:
    for wanted in (True, False):
        at_once(do, [name for name in there if (name in _SEALS) is wanted])


def move(path: "UPath", to: "UPath") -> bool:
    """Copy what is at or below `path` to `to` and remove it here; False where nothing is; raises as `write`."""
    found = below(path)
    if not found:
        if info(path) is None:
            return False
        copy(path, to)
        remove(path)
        return True
    at_once(lambda name: copy(path / name, to / name), found)
    remove_below(path)
    return True


def move_seen(folder: "UPath", to: "UPath", seen: Mapping[str, Found]) -> bool:
    """Copy the objects `seen` below `folder` to `to`, and remove of them here what is still the same.

    False, with nothing removed, where one is gone: somebody else is at them. Raises as `write`.
    """
    try:
        at_once(lambda name: copy(folder / name, to / name), seen)
    except FileNotFoundError:
        return False
    _seals_first(lambda name: remove_if(folder / name, seen[name].identity), seen)
    return True


def copy(path: "UPath", to: "UPath") -> None:
    """Copy an object within the storage, by the storage itself; raises FileNotFoundError or UnwritableError."""
    persistently(to, lambda: filesystem(path).cp_file(path.path, to.path), writes=True)


def fingerprint(content: bytes) -> str:
    """Names the content of an object, where its identity on the storage was not asked for."""
    return f"sha256:{_sha256(content)}"


def remove_if(path: "UPath", identity: str) -> None:
    """Remove an object if it is still the one of this identity, by the store's own decision; fsspec's memory looks.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    if path.protocol == "memory" and ((there := info(path)) is None or there.identity != identity):
        return
    with suppress(FileNotFoundError, FileExistsError):
        persistently(path, lambda: delete_the_same(path, identity), writes=True)
