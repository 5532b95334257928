"""A test process that is killed leaves nothing of what it started in sessions of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ending import members

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="sessions are looked up in /proc"),
]

# Stands for pytest: two processes in a session, as a node of Ray is, and a folder of theirs; then it waits.
_PARENT = """
import subprocess, sys, time
from pathlib import Path
from tests.ending import end_with_this_process
node = subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"], start_new_session=True)
end_with_this_process(node.pid, Path(sys.argv[1]))
print(node.pid, flush=True)
node.wait()
time.sleep(300)
"""


def becomes(is_so: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so()


def watchers(folder: Path) -> list[str]:
    """The watching processes of `folder`, by what they were called with."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode().split("\0")
        except OSError:
            continue
        found += [process.parent.name] if str(folder) in words and any(w.endswith("ending.py") for w in words) else []
    return found


@pytest.fixture
def bystander():
    """Another session, of which nothing is to be ended."""
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_session_ends_with_the_process_that_started_it_and_a_watcher_with_the_session(tmp_path, bystander, how):
    folder = tmp_path / "of-the-session"
    folder.mkdir()
    words = [sys.executable, "-c", _PARENT, str(folder)]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert parent.stdout is not None
    session = int(parent.stdout.readline())
    try:
        assert becomes(lambda: len(members(session)) == 3), "a shell and its two"
        assert becomes(lambda: len(watchers(folder)) == 1)
        if how == "killed":
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        else:  # as a fixture does, whose process lives on
            os.killpg(session, signal.SIGKILL)
        assert becomes(lambda: not [pid for pid in members(session) if not is_zombie(pid)])
        assert becomes(lambda: not [pid for pid in watchers(folder) if not is_zombie(int(pid))])
        assert folder.exists() == (how == "ended"), "what lives on removes it itself"
        assert bystander.poll() is None
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for pid in members(session):
            os.kill(pid, signal.SIGKILL)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and waits for its parent, which here never asks, to be told of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
