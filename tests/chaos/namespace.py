"""Network, process ids and mounts of one's own: what is killed, listened on or mounted in there is seen by nobody else.

When the first process in there ends, all others do. Takes root that may mount, or a kernel that lets users be root in a
namespace of their own.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.conftest import ROOT

_INSIDE = "RAYSTUDY_CHAOS_INSIDE"
# A shell stays the first process: it reaps what the dead leave behind.
_SCRIPT = 'ip link set lo up && mount -t tmpfs tmpfs /dev/shm && "$@"; exit $?'


def is_inside() -> bool:
    """Whether this process is in there."""
    return _INSIDE in os.environ


def _unshare() -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_be_made() -> bool:
    """Whether they can be made here: containers and some kernels let nobody do so."""
    try:
        words = [*_unshare(), "sh", "-c", _SCRIPT, "sh", "true"]
        return subprocess.run(words, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_inside(
    module: str, arguments: Sequence[str], timeout: float | None = None, *, capture: bool = False
) -> "subprocess.CompletedProcess[str]":
    """`python -m module arguments` in there, until it ends."""
    words = [*_unshare(), "sh", "-c", _SCRIPT, "sh", sys.executable, "-m", module, *arguments]
    left_out = ("RAY_", "RAYSTUDY_", "AWS_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    environment[_INSIDE] = "1"
    return subprocess.run(words, cwd=ROOT, env=environment, timeout=timeout, capture_output=capture, text=True)
