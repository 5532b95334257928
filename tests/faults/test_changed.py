"""Edited study files, clocks that jump, a storage copied to another machine: only what is new runs."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.trials import NUM_RUNS, STUDY, comparison, launch, results_on

# What an edit costs: 1 recipe has 3 LRs x 3 seeds x 2 models and 2 probes; a seed: 7 recipes (6 of the truth) x LRs.
EDITS = {
    "recipe added": ("recipes: [mix-0012,", "recipes: [mix-3000, mix-0012,", True),
    "seed added": ("space: spaces/tiny-features-lr.yaml, seeds: [0, 1, 2]}\n  standard", None, True),
    "grid longer": ("grid: [0.03, 0.3, 1.5]", "grid: [0.03, 0.1, 0.3, 1.5]", True),
    "name changed": ("name: tiny-features", "name: renamed", False),
    "recipe renamed": ("mix-0012", "first-mixture", False),
}


def edited(folder: Path, edit: str) -> Path:
    """A copy of the study and all it names, with one thing changed."""
    shutil.copytree(STUDY.parent, folder)
    old, new, _ = EDITS[edit]
    new = old.replace("[0, 1, 2]", "[0, 1, 2, 3]") if new is None else new
    hits = 0
    for path in folder.rglob("*.yaml"):
        text = path.read_text()
        if path.name in ("tiny-features.yaml", "tiny-features-lr.yaml", "synthetic.yaml"):
            hits += old in text
            path.write_text(text.replace(old, new))
    assert hits
    return folder / STUDY.name


@pytest.mark.parametrize("edit", EDITS)
def test_after_an_edit_only_what_is_new_runs(edit, storage, tmp_path):
    before = results_on(storage)
    done = launch(storage, study=edited(tmp_path / "edited", edit))
    assert done.returncode == 0, done.stderr
    after = results_on(storage)
    assert {run: after[run] for run in before} == before
    made = len(after) - len(before)
    if EDITS[edit][2]:
        assert f"{made} runs made" in done.stdout
        assert made > 0
    else:
        assert made == 0
        assert "nothing to do" in done.stdout


def test_a_storage_copied_to_another_place_is_the_same_study_and_nothing_runs(storage, reference):
    other = storage.with_name("other machine")
    shutil.copytree(storage, other)
    before = results_on(other)
    assert len(before) == NUM_RUNS
    done = launch(other)
    assert "nothing to do" in done.stdout, done.stderr
    assert results_on(other) == before
    assert comparison(other) == reference


@pytest.mark.parametrize("hours", [-2, 2])
def test_files_from_another_time_change_nothing(storage, hours, reference):
    """As after a clock that jumped: all that lies on storage is two hours older or younger than now."""
    moved = time.time() + 3600 * hours
    for path in storage.rglob("*"):
        os.utime(path, (moved, moved))
    before = results_on(storage)
    done = launch(storage)
    assert "nothing to do" in done.stdout, done.stderr
    assert results_on(storage) == before
    assert comparison(storage) == reference


JUMP = """
import runpy, sys, time
import raystudy.execute.loop as loop
real, jumps = time.time, iter([7200.0, -7200.0] * 10**6)
time.time = lambda: real() + next(jumps)
sys.argv[0] = "raystudy"
runpy.run_module("raystudy", run_name="__main__", alter_sys=True)
"""


def test_a_wall_clock_that_jumps_two_hours_back_and_forth_changes_nothing(tmp_path, reference):
    words = [sys.executable, "-c", JUMP, "run", str(STUDY), "--storage", str(tmp_path), "--local", "--workers", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(results_on(tmp_path)) == NUM_RUNS
    assert comparison(tmp_path) == reference
