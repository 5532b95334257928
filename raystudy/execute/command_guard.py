"""Stands between a worker and the command it started: whatever becomes of the worker, the command's processes end.

Run as a script, with the standard library alone: `command_guard.py LOG TIMEOUT GRACE PROGRAM ARGUMENT...`. Its standard
input is a pipe that its starter holds open; when it closes, the starter is gone or wants the command ended. The command
gets a session of its own; it and all that descends from it, sessions of their own included, get SIGTERM and after GRACE
seconds SIGKILL. When the command ends by itself, what it left behind is ended too. Prints how it ended, as JSON.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # prctl(2)
_POLL_SECONDS = 0.1


def _prctl(option: int, value: int) -> None:
    """Ask the kernel of Linux; elsewhere nothing, and process groups must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def _descendants() -> list[int]:
    """Processes that descend from this one, orphans among them, since it is their reaper."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found, level = [], [os.getpid()]
    while level:
        level = [process for process, parent in parents.items() if parent in level]
        found += level
    return found


def _signal_all(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    for process in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _end(command: "subprocess.Popen[bytes]", grace: float) -> None:
    """End the command and all that descends from it."""
    deadline = time.monotonic() + grace
    if command.poll() is None or _descendants():
        _signal_all(command.pid, signal.SIGTERM)
    while (command.poll() is None or _descendants()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS / 4)
    for _ in range(100):
        if command.poll() is not None and not _descendants():
            return
        _signal_all(command.pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS / 4)


def main(log: str, timeout: str, grace: str, *arguments: str) -> None:
    """Guard the command from a process that is no child of the starter: Ray's workers kill their children as they end,
    which would leave those of the command behind."""
    guard = os.fork()
    if guard:
        os.waitpid(guard, 0)
        os._exit(0)
    _guard(log, float(timeout), float(grace), arguments)


def _guard(log: str, timeout: float, grace: float, arguments: Sequence[str]) -> None:
    """Run the command; `timeout` in seconds, 0 for none."""
    _prctl(_SET_SUBREAPER, 1)
    deadline = time.monotonic() + timeout if timeout else float("inf")
    ended: dict[str, object] = {"status": None, "is_timed_out": False, "problem": ""}
    try:
        with open(log, "ab") as output:
            command = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_guard,
            )
    except OSError as error:
        print(json.dumps({**ended, "problem": f"{error.strerror or error}: {error.filename or arguments[0]}"}))
        return
    is_held = True
    while command.poll() is None and is_held and time.monotonic() < deadline:
        if select.select([0], [], [], _POLL_SECONDS)[0]:
            is_held = bool(os.read(0, 1))
    ended["is_timed_out"] = command.poll() is None and is_held
    _end(command, grace if command.poll() is None else 1.0)
    ended["status"] = command.poll()
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
