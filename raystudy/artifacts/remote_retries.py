"""The one place where calls of a remote storage are tried again: exponential pauses with jitter, until patience ends.

What passes (throttling, errors of the server, a network that fails) is tried again for two minutes, so that an outage
of one minute is survived; what does not (no rights, no bucket, no room) is told at once.
"""

import logging
import math
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from raystudy.artifacts.local_files import NO_ROOM
from raystudy.artifacts.remote_errors import (
    is_foreign,
    is_missing_bucket,
    is_passing,
    is_taken,
    status_of,
    told,
    without_secrets,
)

if TYPE_CHECKING:
    from upath import UPath

T = TypeVar("T")

PATIENCE = "RAYSTUDY_STORAGE_PATIENCE"  # environment: seconds for which a failing call is tried again
PATIENCE_SECONDS = 120.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 8.0
_SAY_AFTER_SECONDS, _SAY_AGAIN_SECONDS = 3.0, 30.0

_log = logging.getLogger("raystudy.storage")
_patience: ContextVar[float | None] = ContextVar("patience", default=None)
_jitter = random.Random()  # of its own: seeds elsewhere must not make two workers pause alike, nor be used up here


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within this, a failing call is tried again for so many seconds at most."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def patience_seconds() -> float:
    """For how long a failing call is tried again here; never for ever, whatever the environment says."""
    chosen = _patience.get()
    if chosen is not None:
        return chosen
    try:
        told_seconds = float(os.environ.get(PATIENCE, PATIENCE_SECONDS))
    except ValueError:
        return PATIENCE_SECONDS
    return told_seconds if math.isfinite(told_seconds) and told_seconds >= 0 else PATIENCE_SECONDS


class _Outage:
    """Says once in a while that a storage does not answer, and once that it does again; for all threads together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said_at: float | None = None

    def goes_on(self, path: "UPath", error: Exception, waited: float, left: float) -> None:
        now = time.monotonic()
        with self._lock:
            if waited < _SAY_AFTER_SECONDS or (self._said_at is not None and now - self._said_at < _SAY_AGAIN_SECONDS):
                return
            self._said_at = now
        what = without_secrets(" ".join(str(error).split())[:200] or type(error).__name__)
        bucket = f"{path.protocol}://{path.drive}"
        _log.warning("storage: %s does not answer (%s); trying again for up to %.0f s", bucket, what, left)

    def is_over(self) -> None:
        if self._said_at is None:
            return
        with self._lock:
            was_said, self._said_at = self._said_at is not None, None
        if was_said:
            _log.warning("storage: it answers again")


_outage = _Outage()


def persistently(path: "UPath", do: Callable[[], T], *, writes: bool) -> T:
    """What `do` gives; tried again while it fails with what may pass.

    Raises:
        FileNotFoundError, FileExistsError: as `do` raised them; the latter for every refused conditional write.
        UnwritableError, UnreadableError: it failed for good, or for longer than patience lasts.
        OSError: this machine's own disk has no room.
    """
    began, most = time.monotonic(), patience_seconds()
    pause, outer = _FIRST_PAUSE_SECONDS, sys.exception()
    while True:
        try:
            found = do()
        except Exception as error:
            _detach(error, outer)
            waited = time.monotonic() - began
            if not is_foreign(error) or _is_local(error):
                raise
            if is_taken(error):
                raise FileExistsError(str(path)) from error
            if isinstance(error, FileNotFoundError) and not is_missing_bucket(error):
                raise
            if not is_passing(error) or waited >= most:
                raise told(error, path, writes=writes, waited_seconds=waited) from error
            _outage.goes_on(path, error, waited, most - waited)
            time.sleep(min(pause * _jitter.uniform(0.5, 1.0), max(0.0, most - waited)))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        else:
            _outage.is_over()
            return found


def _detach(error: BaseException, outer: BaseException | None) -> None:
    """Leave out of the history of an error what the caller was handling when it called: its status is another's."""
    each: BaseException | None = error
    while outer is not None and each is not None and each is not outer:
        if each.__context__ is outer:
            each.__context__ = None
        each = each.__cause__ or each.__context__


def _is_local(error: Exception) -> bool:
    """Whether this machine's own disk is what failed, in fetching something to it."""
    return isinstance(error, OSError) and error.errno in NO_ROOM and status_of(error) is None
