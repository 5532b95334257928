"""One driver per study on this machine: an advisory lock that the operating system drops with its holder.

The lock file says who holds it. Drivers on other machines are not seen yet.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raystudy.artifacts.files import storage_errors
from raystudy.errors import StudyHeldError

_POLL_SECONDS = 0.5


@contextmanager
def hold_study(folder: Path, *, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the study in `folder`; a second driver waits, or with `wait=False` raises StudyHeldError."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "driver.lock").open("a+")
    with file:
        has_told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(folder / "driver.lock")
                if not wait:
                    raise StudyHeldError(f"{folder.name} must have one driver, but {holder} holds it") from None
                if not has_told:
                    say(f"waiting: {holder} holds {folder.name}")
                    has_told = True
                time.sleep(_POLL_SECONDS)
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}, file)
        file.flush()
        yield


def holder_of(folder: Path) -> str | None:
    """Who holds the study in `folder`, in words; None where no driver does."""
    path = folder / "driver.lock"
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(path)
    except OSError:
        return None
    return None


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
