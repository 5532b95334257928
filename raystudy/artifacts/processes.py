"""Who a process is, so that another one can tell whether it still lives. Knows nothing of locks or files.

Linux gives a boot id, a pid namespace and a start time; where they cannot be read, nobody is ever said to be gone.
"""

import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from raystudy.specs.base import digest


@dataclass(frozen=True)
class ProcessIdentity:
    """A process and the place in which its number means something. Empty texts: unknown."""

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started: str  # clock ticks since boot, so that a clock that jumps changes nothing and a reused pid is told apart

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether this process can be seen to have ended, which only its own machine and pid namespace can."""
        if (self.host, self.boot, self.pid_namespace) != _place() or not self.boot or not self.pid_namespace:
            return False
        return not is_alive(self.pid) or _start(self.pid) not in (self.started, "")


def this_process() -> ProcessIdentity:
    """The calling process."""
    return ProcessIdentity(*_place(), os.getpid(), _start(os.getpid()))


def place_tag() -> str:
    """8 hexadecimal digits for the machine, boot and pid namespace, in which process numbers mean something."""
    return digest(list(_place()))[:8]


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs in this pid namespace; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return _stat(pid)[:1] not in (["Z"], ["X"])


@lru_cache(maxsize=1)
def _place() -> tuple[str, str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return socket.gethostname(), boot, namespace


def _start(pid: int) -> str:
    """When the process started; empty where that cannot be read."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); none where it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
