"""What is there and cannot be read is no damage: it is told with a way out, nothing is moved, nothing is left out."""

import errno
import os
import threading
from pathlib import Path

import pytest

from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.errors import UnreadableError
from raystudy.execute.driver_lock import Timing, find_holder, hold_study
from tests.cli.conftest import contents
from tests.cli.test_export import NAME
from tests.conftest import FEATURES
from tests.faults.test_driver_lock import Clock, foreign

EVALUATION = {"validation": "v", "step": 3, "loss_sum": [1.0], "num_tokens": [1], "num_bytes": [1], "unigram_loss": 2.0}
RUN = "0123456789abcdef" * 2


@pytest.fixture
def refuse(monkeypatch):
    """Call it with the end of a path: that file cannot be read, or that folder cannot be listed, from then on."""
    ends: list[str] = []

    def refusing(real):
        def call(path, *arguments, **options):
            if any(str(path).endswith(end) for end in ends):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *arguments, **options)

        return call

    for place, name in ((Path, "read_bytes"), (Path, "read_text"), (os, "listdir"), (os, "scandir")):
        monkeypatch.setattr(place, name, refusing(getattr(place, name)))
    return ends.append


@pytest.fixture
def ledger(tmp_path):
    """A ledger that mends, with a curve, an evaluation and an attempt."""
    ledger = RunLedger(tmp_path)
    ledger.mends = True
    ledger.write_curve(RUN, [{"step": 0, "loss": 1.0}])
    ledger.write_evaluation(RUN, EVALUATION)
    ledger.write_attempt(RUN, {"cause": "planted"})
    return ledger


READERS = {
    "curve.jsonl": RunLedger.read_curve,
    ".json": RunLedger.read_evaluations,
    "1.json": RunLedger.read_attempts,
}


@pytest.mark.parametrize("end", list(READERS))
def test_a_curve_an_evaluation_or_an_attempt_that_cannot_be_read_stays_and_is_told(ledger, refuse, end):
    before = sorted(ledger.root.rglob("*"))
    assert READERS[end](ledger, RUN) != []
    refuse(end)
    with pytest.raises(UnreadableError, match="cannot be read: Permission denied"):
        READERS[end](ledger, RUN)
    assert sorted(ledger.root.rglob("*")) == before
    assert ledger.damage == []


def test_an_export_with_a_curve_that_cannot_be_read_is_refused(storage, tmp_path, verb, refuse):
    run = min((storage / "runs").iterdir()).name
    refuse(f"{run}/curve.jsonl")
    status, _, told = verb("export", NAME, "--storage", storage, "--out", tmp_path / "x.parquet")
    assert (status, f"{run}/curve.jsonl cannot be read" in told) == (3, True), told
    assert not (tmp_path / "x.parquet").exists()
    (problem,) = verify(Storage(storage)).problems
    assert f"{run}/curve.jsonl cannot be read" in problem


def test_a_holder_whose_file_cannot_be_read_is_never_taken_over(tmp_path, refuse):
    path, clock = foreign(tmp_path), Clock()
    refuse("driver/3.json")
    timing, before = Timing(clock=clock, pause=clock.pause), path.stat().st_ino
    for wait in (True, False):
        held = hold_study(tmp_path, wait=wait, say=print, timing=timing)
        with pytest.raises(UnreadableError, match=r"3\.json cannot be read: Permission denied"), held:
            pass
    assert [entry.stat().st_ino for entry in path.parent.iterdir()] == [before]
    assert find_holder(tmp_path) == "a driver that cannot be read"


def test_a_holder_whose_folder_cannot_be_listed_for_a_moment_goes_on(tmp_path, monkeypatch):
    timing, told = Timing(beat_seconds=0.02, stale_seconds=60.0), []

    def unlisted(folder):
        told.append(folder)
        raise OSError(errno.EIO, "Input/output error")

    with hold_study(tmp_path, wait=True, say=print, timing=timing):
        (path,) = (tmp_path / "driver").iterdir()
        with monkeypatch.context() as patched:
            patched.setattr(os, "listdir", unlisted)
            while len(told) < 2:
                threading.Event().wait(0.01)
        before = path.read_bytes()
        while path.read_bytes() == before:
            threading.Event().wait(0.01)


@pytest.mark.parametrize("words", [("run", FEATURES, "--local"), ("import", "EXPORT"), ("status", NAME)])
def test_a_study_folder_that_cannot_be_listed_is_told_in_one_line(storage, tmp_path, verb, refuse, words):
    assert verb("export", NAME, "--storage", storage, "--out", tmp_path / "EXPORT")[0] == 0
    before = contents(storage)
    refuse(f"studies/{NAME}/driver")
    words = [tmp_path / "EXPORT" if word == "EXPORT" else word for word in words]
    status, _, told = verb(*words, "--storage", storage)
    assert (status, f"studies/{NAME}/driver cannot be read: Permission denied" in told) == (3, True), told
    assert len(told.splitlines()) == 1
    assert contents(storage) == before


@pytest.mark.parametrize("end", ["runs", f"runs/{RUN}"])
def test_a_lock_is_not_written_where_it_cannot_be_seen_which_runs_were_started(tmp_path, verb, refuse, end):
    folder = tmp_path / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    (tmp_path / "runs" / "a-file").write_text("")
    assert Storage(tmp_path).runs.started() == {RUN}
    refuse(end)
    status, _, told = verb("lock", FEATURES, "--storage", tmp_path)
    assert (status, f"{end} cannot be read: Permission denied" in told) == (3, True), told
    assert not (tmp_path / "studies").exists()


def test_evaluations_that_cannot_be_listed_are_not_left_out(ledger, refuse):
    refuse("/eval")
    with pytest.raises(UnreadableError, match="eval cannot be read: Permission denied"):
        ledger.read_evaluations(RUN)
