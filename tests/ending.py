"""Ends what a test process started in a session of its own, once that process is gone, even by SIGKILL.

A watching process for each such session (setsid): fixtures do not come to their end in a test process that is killed.
It ends by itself once nothing of the session is left. Needs /proc; elsewhere it does nothing.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 0.5
_MOST_SECONDS = 30.0  # in which what is killed is gone; what then is left nobody reaps
_PROCESSES = Path("/proc")
_watchers: list["subprocess.Popen[bytes]"] = []


def end_with_this_process(session: int, folder: Path) -> None:
    """Have all processes of `session`, by its id, killed when this process is gone, and `folder` removed then."""
    watcher = subprocess.Popen(
        [sys.executable, __file__, str(os.getpid()), str(session), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to the test process's group must not end it
    )
    _watchers[:] = [each for each in _watchers if each.poll() is None] + [watcher]


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for process in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # has ended
            if os.getsid(int(process.name)) == session:
                found.append(int(process.name))
    return found


def watch(parent: int, session: int, folder: Path) -> None:
    """Until the session has ended, or the parent of this process is gone; then end the session."""
    while os.getppid() == parent:
        if not members(session):
            return
        time.sleep(_POLL_SECONDS)
    deadline = time.monotonic() + _MOST_SECONDS
    while (left := members(session)) and time.monotonic() < deadline:
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_POLL_SECONDS / 10)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
