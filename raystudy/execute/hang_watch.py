"""Finds a worker that hangs: the one that is behind all others, once none of them has come on for too long.

Each rank's thread writes where the rank is to a file in a folder that all ranks share, and looks at the others' files;
whoever started the group may look too. Only this looker's own monotonic clock counts. While a rank reads, evaluates
or writes, which may take much longer than a step, its use of its processor counts as coming on. A rank that writes no
more is stopped, or its machine is gone.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from raystudy.artifacts.files import StoragePath, json_files, read_bytes, write_bytes
from raystudy.artifacts.remote_retries import patience
from raystudy.errors import StorageError
from raystudy.execute.first_cause import Cause, leave_cause
from raystudy.reference import beat
from raystudy.reference.beat import Beat

OUTSIDE_STEPS_SECONDS = 600.0  # least limit while ranks start, evaluate or write; steps have the engine's own
SILENCE_SECONDS = 10.0  # least time without a word after which a rank counts as stopped
HANG_STATUS = 76  # exit status of a rank that found a hang
_FIRST_STEP_SECONDS = 0.5  # within which the first step of all is told, whatever the interval is
_PATIENCE_SECONDS = 5.0  # with a remote storage: what cannot be read or told now, the next look or beat does
_LEAST_CPU_SECONDS = 0.5  # of processor time that count as coming on, outside steps
_WAITING = (os.sep + os.path.join("torch", "distributed") + os.sep, os.sep + os.path.join("deepspeed", "comm") + os.sep)


@dataclass(frozen=True)
class _Seen:
    beat: Beat
    cpu_seconds: float
    is_waiting: bool  # its main thread is inside a collective
    place: str  # its innermost line of code
    word: int  # how often it has written


class Watch:
    """Looks at the beats of `size` ranks in `folder`; `limit_seconds` is how long a step may take."""

    def __init__(
        self, folder: StoragePath, size: int, limit_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._size, self._limit, self._clock = folder, size, limit_seconds, clock
        self._last: dict[int, _Seen] = {}
        self._words: dict[int, tuple[int, float]] = {}  # of each rank the last word, and when it was seen first
        self._since = clock()

    @property
    def interval_seconds(self) -> float:
        """How often to look and to write."""
        return min(5.0, max(0.05, self._limit / 10))

    def look(self) -> Cause | None:
        """The rank that hangs as a cause, or None as long as ranks come on."""
        now, seen = self._clock(), self._read()
        silent = self._silent(seen, now)
        if silent is not None:
            return silent
        if any(self._comes_on(rank, found) for rank, found in seen.items()):
            self._last |= {r: s for r, s in seen.items() if self._comes_on(r, s) or r not in self._last}
            self._since = now
        outside = max(self._limit, OUTSIDE_STEPS_SECONDS)
        if len(seen) < self._size:
            return self._absent(seen) if now - self._since > outside else None
        behind = min(found.beat for found in seen.values())
        limit = self._limit if behind.is_in_step else outside
        return self._cause(seen, behind, now - self._since) if now - self._since > limit else None

    def _absent(self, seen: dict[int, _Seen]) -> Cause:
        """The ranks that have not begun, while those that have wait for them."""
        absent = [rank for rank in range(self._size) if rank not in seen]
        ranks = f"{'worker' if len(absent) == 1 else 'workers'} {', '.join(map(str, absent))} of {self._size}"
        waited = _duration(self._clock() - self._since)
        return Cause("hang", f"{ranks} did not come to the group for {waited}", absent[0])

    def _silent(self, seen: dict[int, _Seen], now: float) -> Cause | None:
        for rank, found in seen.items():
            word, since = self._words.get(rank, (-1, now))
            if word != found.word:
                self._words[rank] = (found.word, now)
            elif now - since > max(self._limit, SILENCE_SECONDS):
                words = (
                    f"worker {rank} of {self._size} hung: it gave no sign of life for {_duration(now - since)} (is it "
                    f"stopped, or its machine gone?), last seen {found.beat}"
                )
                return Cause("hang", words, rank, step=max(found.beat.step, 0))
        return None

    def _comes_on(self, rank: int, seen: _Seen) -> bool:
        before = self._last.get(rank)
        if before is None or seen.beat != before.beat:
            return True
        is_at_work = not seen.beat.is_in_step and not seen.is_waiting
        return is_at_work and seen.cpu_seconds - before.cpu_seconds > _LEAST_CPU_SECONDS

    def _cause(self, seen: dict[int, _Seen], behind: Beat, seconds: float) -> Cause:
        last = [rank for rank, found in seen.items() if found.beat == behind]
        at_work = [rank for rank in last if not seen[rank].is_waiting]
        hangs = at_work or last
        ranks = "worker " if len(hangs) == 1 else "workers "
        ranks += f"{', '.join(map(str, hangs))} of {self._size}"
        others = [rank for rank in seen if rank not in hangs]
        waits = f"; {', '.join(f'worker {rank}' for rank in others)} waited" if others else ""
        words = (
            f"{ranks} hung {behind} ({seen[hangs[0]].place}): no step was made for {_duration(seconds)}{waits}. "
            f"If its steps take so long, raise engine.hang_minutes"
        )
        return Cause("hang", words, hangs[0], step=max(behind.step, 0))

    def _read(self) -> dict[int, _Seen]:
        found = {}
        for rank in range(self._size):
            try:
                with patience(_PATIENCE_SECONDS):
                    value = json.loads(read_bytes(_beat_path(self._folder, rank)) or b"")
            except (StorageError, ValueError):
                continue
            about = (value["cpu_seconds"], value["is_waiting"], value["place"], value["word"])
            found[rank] = _Seen(Beat(*value["beat"]), *about)
        return found


def has_begun(folder: StoragePath) -> bool:
    """Whether any rank came past the start of the first run, by the beats that ranks left in `folder`."""
    with suppress(StorageError):
        for path in json_files(folder):
            with suppress(ValueError):
                if path.name.startswith("beat-") and Beat(*json.loads(read_bytes(path) or b"")["beat"]) > Beat():
                    return True
    return False


class WatchThread:
    """A rank's thread that writes its beat and looks for a hang; on one it leaves the cause and ends the process."""

    def __init__(
        self, folder: StoragePath, rank: int, size: int, limit_seconds: float, thread: int | None = None
    ) -> None:
        """`thread`: the identifier of the thread that trains, by default the main one."""
        self._folder, self._rank = folder, rank
        self._watch = Watch(folder, size, limit_seconds)
        self._main, self._num_words = thread or threading.main_thread().ident or 0, 0
        self._ended, self._has_begun = threading.Event(), False
        self._thread = threading.Thread(target=self._go, name="hang-watch", daemon=True)

    def __enter__(self) -> "WatchThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _go(self) -> None:
        while self._wait():
            try:
                self._write()
                cause = self._watch.look()
            except (OSError, StorageError):
                continue  # a folder that cannot be written now: without beats nobody is said to hang
            if cause is not None:
                leave_cause(self._folder, cause)
                print(f"raystudy: {cause.words}", file=sys.stderr, flush=True)
                os._exit(HANG_STATUS)

    def _wait(self) -> bool:
        """Until it is time to look, or the first step of all begins; False where all has ended."""
        due = time.monotonic() + self._watch.interval_seconds
        while not self._has_begun and time.monotonic() < due:
            if self._ended.wait(min(_FIRST_STEP_SECONDS, self._watch.interval_seconds)):
                return False
            if beat.now() > Beat():
                self._has_begun = True
                return True
        return not self._ended.wait(max(0.0, due - time.monotonic()))

    def _write(self) -> None:
        self._num_words += 1
        now, frame = beat.now(), sys._current_frames().get(self._main)
        files = list(_files(frame))
        about = {
            "word": self._num_words,
            "beat": [now.member, now.step, now.phase],
            "cpu_seconds": time.process_time(),
            "is_waiting": any(part in file for file, _ in files for part in _WAITING),
            "place": f"{Path(files[0][0]).name}, line {files[0][1]}" if files else "",
        }
        with patience(_PATIENCE_SECONDS):
            write_bytes(_beat_path(self._folder, self._rank), json.dumps(about).encode(), durable=False)


def _files(frame: FrameType | None) -> "list[tuple[str, int]]":
    """File and line of every frame, innermost first."""
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found


def _beat_path(folder: StoragePath, rank: int) -> StoragePath:
    return folder / f"beat-{rank}.json"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.1f} s"
