"""Network, process ids and mounts of one's own: what is killed, listened on or mounted in there is seen by nobody else.

When the first process in there ends, all others do. Takes root.
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


def run_inside(
    module: str, arguments: Sequence[str], timeout: float | None = None, *, capture: bool = False
) -> "subprocess.CompletedProcess[str]":
    """`python -m module arguments` in there, until it ends."""
    words = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    words += ["sh", "-c", _SCRIPT, "sh", sys.executable, "-m", module, *arguments]
    left_out = ("RAY_", "RAYSTUDY_", "AWS_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    environment[_INSIDE] = "1"
    return subprocess.run(words, cwd=ROOT, env=environment, timeout=timeout, capture_output=capture, text=True)
