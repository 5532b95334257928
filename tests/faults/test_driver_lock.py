"""One driver per study: who holds it, when a holder counts as gone, and what a holder does that has lost it."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from upath import UPath

from raystudy.artifacts.files import write_bytes
from raystudy.artifacts.processes import ProcessIdentity, is_alive, this_process
from raystudy.errors import StudyHeldError
from raystudy.execute import driver_lock
from raystudy.execute.driver_lock import Timing, find_holder, hold_study
from tests.conftest import ROOT
from tests.faults.trials import launch

HOLD = """
import sys, time
from pathlib import Path
from raystudy.execute.driver_lock import hold_study
with hold_study(Path(sys.argv[1]), wait=True, say=print):
    print("held", flush=True)
    time.sleep(100)
"""


class Clock:
    """A monotonic clock that moves when it is told to, and a pause that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def a_holder(folder: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def foreign(folder: Path, counter: int = 0, **changes: object) -> Path:
    """The file of a holder that this process cannot see."""
    there = {"host": "elsewhere", "boot": "b", "pid_namespace": "pid:[1]", "pid": os.getpid(), "started": "1"}
    path = folder / "driver" / "3.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**there, **changes, "counter": f"{counter:012d}"}))
    return path


def test_a_killed_holder_on_this_machine_is_stale_at_once_even_before_it_is_reaped(tmp_path):
    holder = a_holder(tmp_path)
    assert find_holder(tmp_path) == f"process {holder.pid} on {this_process().host}"
    held = pytest.raises(StudyHeldError, match=f"process {holder.pid} on .* holds it")
    with held, hold_study(tmp_path, wait=False, say=print):
        pass
    holder.kill()
    while is_alive(holder.pid):
        time.sleep(0.01)
    said: list[str] = []
    with hold_study(tmp_path, wait=False, say=said.append) as is_clean:
        assert not is_clean
        assert find_holder(tmp_path) == str(this_process())
    assert "taking over" in said[0]
    assert find_holder(tmp_path) is None
    holder.communicate()


def test_a_holder_elsewhere_is_stale_after_sixty_silent_seconds_of_our_own_clock(tmp_path):
    path, clock, said = foreign(tmp_path), Clock(), []
    beats = iter(range(1, 100))
    last_sign = clock.now + 200

    def pause(seconds: float) -> None:
        clock.pause(seconds)
        if clock.now <= last_sign and clock.now % 5 == 0:
            foreign(tmp_path, next(beats))

    with hold_study(tmp_path, wait=True, say=said.append, timing=Timing(clock=clock, pause=pause)):
        assert not path.exists()
        assert 60 <= clock.now - last_sign <= 61
    assert [line.split(":")[0] for line in said] == ["waiting", tmp_path.name]


def test_a_clock_that_jumps_two_hours_while_nobody_looks_takes_nothing_from_a_live_holder(tmp_path):
    """As after a suspension of the observer: its clock has moved on, the holder has raised its counter meanwhile."""
    foreign(tmp_path)
    clock, looks = Clock(), iter(range(1, 10))

    class StillHeldError(Exception):
        pass

    def pause(seconds: float) -> None:
        clock.pause(7200 + seconds)
        if (look := next(looks)) == 9:
            raise StillHeldError
        foreign(tmp_path, look)

    with (
        pytest.raises(StillHeldError),
        hold_study(tmp_path, wait=True, say=print, timing=Timing(clock=clock, pause=pause)),
    ):
        pass


def test_a_dead_driver_at_a_slow_remote_storage_is_taken_over(monkeypatch):
    """At 3 s a call every look takes longer than one at a storage that answers; that must not discount it all."""
    clock, folder = Clock(), UPath("memory://slow/studies/one")
    write_bytes(folder / "driver" / "1.json", b'{"counter": "000000000001"}')
    for name in ("names_in", "read_bytes"):
        fast = getattr(driver_lock, name)
        monkeypatch.setattr(driver_lock, name, lambda path, fast=fast: (clock.pause(3), fast(path))[1])
    waited = []

    def pause(seconds: float) -> None:
        clock.pause(seconds)
        waited.append(seconds)
        assert len(waited) < 50, "never taken over"

    timing = Timing(poll_seconds=2.0, lost_seconds=180.0, clock=clock, pause=pause)
    with hold_study(folder, wait=True, say=print, timing=timing):
        assert 60 <= clock.now - 1000 < 120


def test_without_waiting_a_silent_holder_elsewhere_keeps_the_study(tmp_path):
    foreign(tmp_path)
    held = pytest.raises(StudyHeldError, match=r"process \d+ on elsewhere holds it.*takes over 60 s after")
    with held, hold_study(tmp_path, wait=False, say=print):
        pass


def test_a_process_that_cannot_be_seen_is_never_said_to_be_gone():
    me = this_process()
    assert not me.is_gone()
    assert ProcessIdentity(me.host, me.boot, me.pid_namespace, me.pid, "1").is_gone(), "a reused process number"
    for unlike in ({"host": "x"}, {"boot": "x"}, {"pid_namespace": "x"}, {"boot": ""}):
        assert not ProcessIdentity(**{**vars(me), "pid": 2**22 - 1, **unlike}).is_gone()


def _take(arguments: tuple[Path, float]) -> tuple[float, float]:
    folder, seconds = arguments
    with hold_study(folder, wait=True, say=lambda _: None, timing=Timing(0.1, 60.0, 0.002)):
        began = time.monotonic()
        time.sleep(seconds)
        return began, time.monotonic()


def test_many_takers_of_a_stale_study_hold_it_one_after_another(tmp_path):
    """Also where advisory locks are not honoured: none is used."""
    foreign(tmp_path, **{**vars(this_process()), "pid": 2**22 - 1})
    with multiprocessing.get_context("fork").Pool(6) as pool:
        spans = sorted(pool.map(_take, [(tmp_path, 0.02)] * 18, chunksize=1))
    assert len(spans) == 18
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


@pytest.mark.parametrize("loss", ["taken", "removed", "unwritable"])
def test_a_holder_that_lost_the_study_stops_with_a_clear_message(tmp_path, loss, monkeypatch):
    timing = Timing(beat_seconds=0.02, stale_seconds=0.1)
    stopped = pytest.raises(StudyHeldError, match=r"no longer holds it.*Run the same command again")
    with stopped, hold_study(tmp_path, wait=True, say=print, timing=timing):
        (path,) = (tmp_path / "driver").iterdir()
        if loss == "taken":
            (path.parent / "2.json").write_text("{}")
        elif loss == "removed":
            path.unlink()
        else:
            monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        threading.Event().wait(20)
        pytest.fail("nothing interrupted the holder")


def test_a_driver_that_was_suspended_while_another_took_over_ends_with_status_5(tmp_path):
    code = HOLD.replace("say=print)", "say=print, timing=Timing(0.05, 60.0))").replace(
        "import hold_study", "import Timing, hold_study"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    os.kill(holder.pid, signal.SIGSTOP)
    (path,) = (tmp_path / "driver").iterdir()
    foreign(tmp_path)
    path.unlink()
    os.kill(holder.pid, signal.SIGCONT)
    _, errors = holder.communicate(timeout=20)
    assert "StudyHeldError" in errors
    assert (tmp_path / "driver" / "3.json").exists(), "the other's holding stays"


def test_a_second_launch_on_a_held_study_ends_with_status_5_and_says_who_holds_it(tmp_path):
    holder = a_holder(tmp_path / "studies" / "tiny-features")
    done = launch(tmp_path, "--no-wait")
    holder.kill()
    holder.communicate()
    assert done.returncode == 5, done.stderr
    assert f"process {holder.pid} on" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
