"""One driver per study, on one machine or on several that share the storage.

`studies/<name>/driver/<n>.json` is the n-th holding of the study: who holds it, and a counter that a thread of the
holder raises every few seconds. The highest n counts. A holder that ends renames its file to `<n>.released`, or to
`<n>.stopped` when an error or a signal ends it; that needs no room on a full disk and keeps n from being given twice.
On an object store, which cannot rename, it writes the new name and then removes the old one; where both are there, the
holding was given up.

The study may be taken when its newest holding was given up or is stale: at once where the observer shares host, boot
and pid namespace with the holder and sees that process gone; elsewhere when the file has not changed for 60 s on the
observer's own monotonic clock, so that no clock of any machine needs to be right. Taking is the exclusive creation
(POSIX link, conditional PUT) of file n + 1, so of any number of takers one wins, also on NFS; no advisory lock is
needed. A taker that looked at an old state of the folder creates a number that has passed, sees a higher one and waits
on. Time in which a taker could not look, as while the storage does not answer, counts for nothing: holder and takers
meet an outage together.

A holder that was suspended finds, at the next raise of its counter, a higher number or its file gone: it has lost the
study and stops. Until then it can have written results only, and of those the first one wins. Likewise when it could
not raise its counter for 60 s (180 s on a remote storage, which may be out of reach for everybody). Runs have no locks.
"""

import contextlib
import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import StoragePath, names_in, read_bytes, remove_file, write_bytes, write_json
from raystudy.artifacts.processes import ProcessIdentity, this_process
from raystudy.artifacts.remote_retries import patience
from raystudy.errors import StorageError, StudyHeldError, UnreadableError

_NAME = re.compile(r"([0-9]{1,18})\.(json|released|stopped)")


@dataclass(frozen=True)
class Timing:
    """How often the counter is raised and looked at, and after how long of silence a holder counts as gone."""

    beat_seconds: float = 5.0
    stale_seconds: float = 60.0
    poll_seconds: float = 0.5
    lost_seconds: float | None = None  # after which a holder that cannot write gives up; None: where it lies decides
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


# A look at a remote storage costs a call and 20 ms or more; `lost_seconds` is thrice what its retries outlast.
REMOTE_TIMING = Timing(poll_seconds=2.0, lost_seconds=180.0)
_LONGEST_LOOK_SECONDS = 5.0  # a look that took longer was one at a storage that does not answer
_BEAT_PATIENCE_SECONDS = 10.0  # a beat that cannot be written gives way to the next


@dataclass(frozen=True)
class _Holding:
    number: int
    path: StoragePath
    state: str  # json: held; released: its launch ended well; stopped: it did not


@contextmanager
def hold_study(
    folder: StoragePath, *, wait: bool, say: Callable[[str], None], timing: Timing | None = None
) -> Iterator[bool]:
    """Hold the study in `folder`; a second driver waits, or with `wait=False` raises StudyHeldError.

    Gives whether the launch before ended well: if not, its writers may have left something half-written.
    In the main thread a holder that loses the study is interrupted, elsewhere it is told at the end; both as a
    StudyHeldError.

    Raises:
        UnreadableError: the folder or its holder's file cannot be read, so that nobody can say who holds it.
    """
    chosen = timing or (Timing() if isinstance(folder, Path) else REMOTE_TIMING)
    token = uuid.uuid4().hex
    path, is_clean = _take(folder, wait, say, chosen, token)
    heart = _Heart(path, folder.name, chosen, token)
    heart.start()
    state = "stopped"
    try:
        yield is_clean
        state = "released"
    except KeyboardInterrupt:
        if heart.lost:
            raise StudyHeldError(heart.lost) from None
        raise
    finally:
        heart.end(state)
    if heart.lost:
        raise StudyHeldError(heart.lost)


def find_holder(folder: StoragePath) -> str | None:
    """Who holds the study in `folder` as far as can be seen at once, or None; for those who only look.

    Raises:
        UnreadableError: the folder cannot be listed.
    """
    newest = _newest(folder / "driver")
    if newest is None or newest.state != "json":
        return None
    try:
        process = _process(_content(newest.path))
    except UnreadableError:
        process = None
    return None if process is not None and process.is_gone() else str(process or "a driver that cannot be read")


def _take(
    folder: StoragePath, wait: bool, say: Callable[[str], None], timing: Timing, token: str
) -> tuple[StoragePath, bool]:
    seen: tuple[int, bytes] | None = None
    since = last = timing.clock()
    has_told = False
    while True:
        before = timing.clock()  # taken before the look, so that a pause in between proves nothing
        newest = _newest(folder / "driver")
        if newest is None or newest.state != "json":
            taken = _create(folder, (newest.number if newest else 0) + 1, token)
        else:
            content = _content(newest.path)
            now = timing.clock()
            if (newest.number, content) != seen:
                seen, since = (newest.number, content), now
            elif not isinstance(folder, Path):
                # What a look took too long, the storage did not answer, for the holder no more than for us. What it
                # may take counts, so that one at a slow storage is taken over too, though later.
                since += max(0.0, now - last - timing.poll_seconds - _LONGEST_LOOK_SECONDS)
            last = now
            process = _process(content)
            is_gone = process is not None and process.is_gone()
            if is_gone or before - since >= timing.stale_seconds:
                say(f"{folder.name}: taking over from {process or 'a driver'}, which is gone")
                taken = _create(folder, newest.number + 1, token)
            else:
                _refuse_or_tell(folder.name, process, wait, timing, None if has_told else say)
                has_told = True
                timing.pause(timing.poll_seconds)
                continue
        if taken is not None:
            return taken, newest is None or newest.state == "released"


def _refuse_or_tell(
    name: str, process: ProcessIdentity | None, wait: bool, timing: Timing, say: Callable[[str], None] | None
) -> None:
    holder = process or "a driver whose file cannot be read"
    if not wait:
        raise StudyHeldError(
            f"{name} must have one driver, but {holder} holds it. Wait until it has ended, or end it; without "
            f"--no-wait this command waits, and takes over {timing.stale_seconds:.0f} s after its last sign of life"
        )
    if say is not None:
        say(f"waiting: {holder} holds {name}")


def _create(folder: StoragePath, number: int, token: str) -> StoragePath | None:
    """Holding number `number`, or None when another was faster."""
    path = folder / "driver" / f"{number}.json"
    # The token tells this holding from one that another thread of this process tries for: see `write_bytes`.
    if not write_json(path, _describe(0, token), exclusive=True):
        return None
    # A local listing can miss a file that is being renamed, as a holding is that ends; but not twice.
    looks = (_newest(folder / "driver") for _ in range(2 if isinstance(folder, Path) else 1))
    if any(newest is None or newest.number != number for newest in looks):
        with contextlib.suppress(StorageError):
            remove_file(path)
        return None
    for name in names_in(folder / "driver"):
        named = _NAME.fullmatch(name)
        if named and int(named[1]) < number:
            with contextlib.suppress(StorageError):
                remove_file(folder / "driver" / name)
    return path


def _describe(counter: int, token: str) -> dict[str, Any]:
    """What a holding's file says; of the same length whatever the counter, so that it can be written in place."""
    return {**asdict(this_process()), "token": token, "counter": f"{counter:012d}"}


def _newest(folder: StoragePath) -> _Holding | None:
    matches = [match for name in names_in(folder) if (match := _NAME.fullmatch(name))]
    found = [_Holding(int(match[1]), folder / match[0], match[2]) for match in matches]
    return max(found, key=lambda holding: (holding.number, holding.state), default=None)


def _content(path: StoragePath) -> bytes:
    return read_bytes(path) or b""  # nothing: given up or taken over since it was listed


def _process(content: bytes) -> ProcessIdentity | None:
    try:
        value = json.loads(content)
        del value["counter"]
        value.pop("token", None)
        process = ProcessIdentity(**value)
        return process if isinstance(process.pid, int) and process.pid > 0 else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class _Heart:
    """Raises the counter of a holding until it is lost or ended; `lost` then says how."""

    def __init__(self, path: StoragePath, name: str, timing: Timing, token: str) -> None:
        self._token = token
        self._path, self._name, self._timing = path, name, timing
        self._number = int(path.stem)
        self._counter = 0
        default = (timing if isinstance(path, Path) else REMOTE_TIMING).lost_seconds
        self._lost_seconds = timing.lost_seconds or default or timing.stale_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="driver-lock", daemon=True)
        self._interrupts = threading.current_thread() is threading.main_thread()
        self.lost = ""

    def start(self) -> None:
        self._thread.start()

    def end(self, state: str) -> None:
        """Stop beating and give the study up, as `released` or `stopped`."""
        self._ended.set()
        self._thread.join()
        if not self.lost:
            path, given_up = self._path, f"{self._number}.{state}"
            with contextlib.suppress(OSError, StorageError), patience(_BEAT_PATIENCE_SECONDS):
                if isinstance(path, Path):
                    path.rename(path.with_name(given_up))
                else:
                    write_bytes(path.with_name(given_up), self._content())
                    remove_file(path)

    def _beat_on(self) -> None:
        last = self._timing.clock()
        while not self._ended.wait(self._timing.beat_seconds):
            before = self._timing.clock()
            try:
                self._beat()
                last = before
            except FileNotFoundError:
                self._lose("another driver has taken it over, since this one gave no sign of life (was it suspended?)")
            except (OSError, StorageError) as error:
                if self._timing.clock() - last >= self._lost_seconds:
                    self._lose(f"its sign of life cannot be written ({error})")
            if self.lost:
                return

    def _beat(self) -> None:
        with patience(_BEAT_PATIENCE_SECONDS):
            newest = _newest(self._path.parent)
            if newest is None or newest.number != self._number:
                raise FileNotFoundError
            self._counter += 1
            if isinstance(self._path, Path):
                _write_in_place(self._path, self._content())
            else:
                write_bytes(self._path, self._content())

    def _content(self) -> bytes:
        return (json.dumps(_describe(self._counter, self._token), indent=1, ensure_ascii=False) + "\n").encode()

    def _lose(self, why: str) -> None:
        self.lost = (
            f"{self._name} must have one driver, and this one no longer holds it: {why}. It stops here; finished runs "
            f"are kept. Run the same command again: it waits for the other driver and makes what is still missing"
        )
        if self._interrupts and callable(signal.getsignal(signal.SIGINT)):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _write_in_place(path: Path, content: bytes) -> None:
    """Overwrite a file that must be there with content of its length; needs no room on a full disk."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
