"""Processes in the namespace: which are there, which belong to what, and killing them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def all_pids() -> list[int]:
    """Of all that have not ended, this process and its parents left out."""
    ours, pid = {1}, os.getpid()
    while pid > 1:
        ours.add(pid)
        pid = int(_stat(pid)[1])
    return [
        int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in ours and is_alive(int(name))
    ]


def _stat(pid: int) -> list[str]:
    """State, parent, process group, session, ...; of one that is gone: those of a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "1", "0", "0"]


def is_alive(pid: int) -> bool:
    return _stat(pid)[0] not in "ZX"


def words_of(pid: int) -> list[str]:
    """The command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return [""]


def in_session(session: int) -> list[int]:
    """All of a session: what `ray start` with one of its own has started."""
    return [pid for pid in all_pids() if int(_stat(pid)[3]) == session]


def named(name: str, pids: Iterable[int] | None = None) -> list[int]:
    """Those whose program is called `name`."""
    return [pid for pid in (all_pids() if pids is None else pids) if Path(words_of(pid)[0]).name == name]


def trial_workers(pids: Iterable[int] | None = None) -> list[int]:
    """Worker processes of Ray that hold a trial."""
    titles = {pid: words_of(pid)[0] for pid in (all_pids() if pids is None else pids)}
    return [pid for pid, title in titles.items() if title.startswith("ray::") and _is_trial(title)]


def _is_trial(title: str) -> bool:
    return "ImplicitFunc" in title or "train" in title.lower()


def drivers() -> list[int]:
    """Launches: `python -m raystudy run ...` as a process, not a shell or a submitting command that names it."""
    return [pid for pid in all_pids() if words_of(pid)[1:4] == ["-m", "raystudy", "run"]]


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until_gone(pids: Iterable[int], seconds: float) -> bool:
    """Whether all these end in time."""
    left, deadline = list(pids), time.monotonic() + seconds
    while left := [pid for pid in left if is_alive(pid)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
