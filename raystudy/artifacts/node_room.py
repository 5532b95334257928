"""Room on this node's disk for copies of what lies on a remote storage: where they are, who uses them, which go.

    <cache>/<storage>/<name>/                     a copy
    <cache>/<storage>/.lock-<name>                locked while one process fetches or removes the copy
    <cache>/<storage>/.used-<name>/<place>-<pid>  processes that may be reading it; its time: when one last began to
    <cache>/<storage>/.writing-...                being fetched, or left by a fetcher that died

Locks are the system's own, which end with whoever holds them; the cache is this node's, so that they mean something
here. A copy that some process may be reading is never removed. Knows nothing of storages.
"""

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from raystudy.artifacts.files import NO_ROOM, writing_name
from raystudy.artifacts.processes import is_alive, place_tag
from raystudy.artifacts.sealed import MANIFEST
from raystudy.errors import NodeFullError, SpecError

CACHE = "RAYSTUDY_CACHE"
CACHE_GB = "RAYSTUDY_CACHE_GB"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})
_CANNOT_WRITE = NO_ROOM | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}
_STRANGER_SECONDS = 7 * 86_400.0  # for which a process of another container, which cannot be seen, counts as alive
_STORAGE, _COPY = re.compile("[0-9a-f]{12}"), re.compile("[0-9a-f]{32}")
_marked: set[tuple[Path, int]] = set()


def cache_folder() -> Path:
    """Where this node keeps what it has fetched: RAYSTUDY_CACHE, else `raystudy` in the user's folder for caches.

    Of a user without a home, as in some containers, it is in the folder for temporary files, where all may write.

    Raises:
        SpecError: it cannot be made there for this user alone.
    """
    told, base = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME")
    if told:
        return Path(told).absolute()
    if base:
        return Path(base).absolute() / "raystudy"
    try:
        return Path.home() / ".cache" / "raystudy"
    except RuntimeError:
        try:
            return own_temporary_folder()
        except OSError as error:
            way_out = f"Remove what is there, or set {CACHE} to a folder of your own"
            raise SpecError(f"the cache of a user without a home cannot be made: {error}. {way_out}") from error


def own_temporary_folder() -> Path:
    """Make this user's folder among those for temporary files, where it lacks.

    Raises:
        OSError: it cannot be made, or what is there of its name, which anybody could have made first, is another
            user's, a link, or open to others' writing.
    """
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"raystudy-{'user' if user is None else user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_own = user is None or (stat.S_ISDIR(found.st_mode) and found.st_uid == user)
    if not is_own or (user is not None and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "link"
        raise PermissionError(
            f"{folder} must be a folder of user {user} that nobody else can write to, but is a {kind} of user "
            f"{found.st_uid} with rights {stat.S_IMODE(found.st_mode):o}"
        )
    return folder


@contextlib.contextmanager
def node_errors(path: Path, needed: int = 0, causes: Collection[int] = _CANNOT_WRITE) -> Iterator[None]:
    """Turn what the system says of writing `needed` bytes at `path` on this node into a message for the user.

    Raises:
        NodeFullError: it cannot be written, by one of the `causes` (errno) whatever that was wrapped in.
    """
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not (isinstance(found, OSError) and found.errno in causes):
            found = found.__cause__ or found.__context__
        if found is None:
            raise
        raise _node_full(path, needed, f": {os.strerror(found.errno or 0)}") from error


def _node_full(path: Path, needed: int, why: str = "") -> NodeFullError:
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    room = f"room for {needed:,} bytes" if needed else "room"
    return NodeFullError(
        f"the cache of a node must have {room} and be writable, but {path.parent} on {socket.gethostname()} has "
        f"{free:,} bytes free{why}. Make room there, or set {CACHE} to a folder on a larger disk; finished runs are "
        f"kept, and the same command goes on from them"
    )


def make_folder(folder: Path) -> None:
    """Make a folder of the cache, which others of this machine do not read; raises NodeFullError."""
    with node_errors(folder / "any"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextlib.contextmanager
def locked(here: Path) -> Iterator[None]:
    """The copy `here` for one process of this node at a time, where its file system has locks.

    Raises:
        NodeFullError: the cache cannot be written.
    """
    make_folder(here.parent)
    with node_errors(here):
        lock = os.open(_lock_path(here), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            _lock(lock, waits=True)
        except OSError as error:  # without locks several may fetch, and the first rename wins
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(lock)


def _lock(file: int, *, waits: bool) -> None:
    import fcntl  # not on every system; needed for remote storages alone

    fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))


def mark_used(here: Path) -> None:
    """Note that this process may read the copy from now on; to be called while it is locked. Raises NodeFullError."""
    users = _users_folder(here)
    marker = users / f"{place_tag()}-{os.getpid()}"
    with node_errors(marker):
        if (here, os.getpid()) not in _marked or not users.exists():
            users.mkdir(exist_ok=True, mode=0o700)
            marker.touch()
            _marked.add((here, os.getpid()))
    with contextlib.suppress(OSError):
        os.utime(users)


def make_room(here: Path, needed: int) -> None:
    """See that a copy of `needed` bytes fits at `here`, by removing those that were not used for longest.

    RAYSTUDY_CACHE_GB is kept to as far as what is in use lets it. Locks are taken one at a time and never waited for.

    Raises:
        NodeFullError: the disk has no room for it all the same.
        SpecError: RAYSTUDY_CACHE_GB is no number above 0.
    """
    remove_left_over(here.parent)
    limit = _limit_bytes()
    while True:
        free, held = shutil.disk_usage(here.parent).free, 0 if limit is None else _held_bytes()
        if needed <= free and (limit is None or held + needed <= limit):
            return
        if not _remove_oldest(here):
            break
    if needed > free:
        raise _node_full(here, needed)


def _limit_bytes() -> float | None:
    told = os.environ.get(CACHE_GB)
    if not told:
        return None
    try:
        limit = 1e9 * float(told)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise SpecError(f"{CACHE_GB} must be a number of gigabytes above 0, but is {told!r}. Leave it out for no limit")
    return limit


def _copies() -> list[Path]:
    """Every copy there is; what else lies in the cache, as trainers' work, is not ours to remove."""
    found = (path.parent for path in cache_folder().glob(f"*/*/{MANIFEST}"))
    return [copy for copy in found if _STORAGE.fullmatch(copy.parent.name) and _COPY.fullmatch(copy.name)]


def _held_bytes() -> int:
    total = 0
    for copy in _copies():
        with contextlib.suppress(OSError):
            total += sum(file.stat().st_size for file in copy.iterdir())
    return total


def _remove_oldest(wanted: Path) -> bool:
    """Remove the copy that was not used for longest; False where every one is in use, or there are no locks."""
    for copy in sorted(_copies(), key=_last_used):
        if copy == wanted or _is_used(copy):
            continue
        with contextlib.suppress(OSError):  # somebody is at it
            lock = os.open(_lock_path(copy), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _lock(lock, waits=False)
                if not _is_used(copy):
                    remove(copy)
                    return True
            finally:
                os.close(lock)
    return False


def remove(copy: Path) -> None:
    """Remove a copy that is locked: out of sight by one rename, then away."""
    gone = copy.with_name(writing_name())
    copy.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_left_over(folder: Path) -> None:
    """Remove what fetchers of this machine left in `folder` when they died."""
    for path in folder.glob(f".writing-{place_tag()}-*"):
        number = path.name.split("-")[2]
        if number.isdigit() and not is_alive(int(number)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _last_used(copy: Path) -> float:
    try:
        return _users_folder(copy).stat().st_mtime
    except OSError:
        return 0.0


def _is_used(copy: Path) -> bool:
    """Whether a process that may read the copy is alive, as far as can be told."""
    for marker in _users_folder(copy).glob("*-*"):
        place, _, number = marker.name.partition("-")
        with contextlib.suppress(OSError):
            if place == place_tag():
                if number.isdigit() and is_alive(int(number)):
                    return True
            elif time.time() - marker.stat().st_mtime < _STRANGER_SECONDS:
                return True
    return False


def _lock_path(here: Path) -> Path:
    return here.with_name(f".lock-{here.name}")


def _users_folder(here: Path) -> Path:
    return here.with_name(f".used-{here.name}")
