"""No room, no quota, read-only: one clear message, status 3, nothing half-written taken for whole; then it goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.trials import NUM_RUNS, STUDY, comparison, launch, results_on

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")

RUN = f"{sys.executable} -m raystudy run {STUDY} --local --workers 2 --storage"


def in_own_mounts(script: str) -> "subprocess.CompletedProcess[str]":
    """Run shell text where mounts are seen by nobody else and vanish with it."""
    words = ["unshare", "-m", "sh", "-c", f"set -e\n{script}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)


def check_told(done: "subprocess.CompletedProcess[str]", cause: str) -> None:
    assert done.returncode == 3, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("raystudy:")]
    assert cause in line
    assert "finished runs are kept" in line
    assert "Traceback" not in done.stderr
    assert "failed:" not in done.stderr, "a full storage is no failure of a run"


@pytest.mark.parametrize(("limit", "cause"), [("size=1m", "No space left"), ("nr_inodes=400", "No space left")])
def test_a_full_storage_stops_the_launch_and_the_next_goes_on_when_there_is_room(tmp_path, reference, limit, cause):
    """A small size stops in the middle of a file, few inodes in the middle of a record."""
    small, kept = tmp_path / "small", tmp_path / "storage"
    small.mkdir()
    done = in_own_mounts(
        f"mount -t tmpfs -o {limit} tmpfs {small}\nset +e\n{RUN} {small}\nstatus=$?\ncp -a {small} {kept}\nexit $status"
    )
    check_told(done, cause)
    before = results_on(kept)
    assert 0 < len(before) < NUM_RUNS
    again = launch(kept)
    assert again.returncode == 0, again.stderr
    assert "bad-" not in again.stderr
    after = results_on(kept)
    assert {run: after[run] for run in before} == before
    assert comparison(kept) == reference


def test_a_read_only_storage_is_told_before_anything_else(storage):
    contents = {path: path.stat().st_mtime_ns for path in storage.rglob("*")}
    done = in_own_mounts(f"mount --bind {storage} {storage}\nmount -o remount,ro,bind {storage}\n{RUN} {storage}")
    check_told(done, "Read-only file system")
    assert {path: path.stat().st_mtime_ns for path in storage.rglob("*")} == contents


def test_a_limit_in_the_middle_of_a_file_leaves_no_part_of_it(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from raystudy.artifacts.records import RunLedger\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "RunLedger(Path(sys.argv[1])).write_result('r', {'status': 'x' * 5000})"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "UnwritableError" in done.stderr
    assert "File too large" in done.stderr
    assert [path for path in Path(tmp_path).rglob("*") if path.is_file()] == []
