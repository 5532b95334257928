"""Which GPUs Ray gives to which task, and what it says of the dead: by stub work on nodes with logical GPUs."""

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.distribute.placed_work import KILLED, RAISES, SHARES, TOGETHER

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
Notes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def launched(tmp_path_factory, ray_cluster) -> tuple[Notes, Notes]:
    """One launch: what each task noted, and what was reported of each, by name."""
    folder: Path = tmp_path_factory.mktemp("placed")
    command = [sys.executable, "-m", "tests.distribute.placed_work", str(folder)]
    environment = {**os.environ, **ray_cluster}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=270)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    notes = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return notes, {report["name"]: report for report in reports}


def test_whole_gpus_and_shares_of_one_are_each_task_s_own_and_no_shape_waits_for_another(launched):
    """The stubs wait for one another: a group, a whole GPU and a share are at work at once, then four shares are."""
    notes, reports = dict(launched[0]), launched[1]
    assert notes.keys() == {*TOGETHER, *SHARES}, reports
    assert all(reports[name]["status"] == "finished" for name in ("group", "whole", "share", *SHARES))
    of_group = [notes.pop(name) for name in TOGETHER if name.startswith("group")]
    assert all(note["visible"] in set("0123") for note in notes.values()), "each sees one GPU and no other"
    assert len({note["visible"] for note in of_group}) == 1, "workers on one node see those of all, each takes its own"
    assert {note["place"] for note in of_group} == {0, 1}
    for note in of_group:
        notes[str(note["place"])] = {**note, "visible": note["visible"].split(",")[note["place"]]}
    for one, other in combinations(notes.values(), 2):
        if one["visible"] == other["visible"] and one["from"] < other["to"] and other["from"] < one["to"]:
            assert one["gpus"] == other["gpus"] == 0.25, "a whole GPU is nobody else's"
    shares = [note for note in notes.values() if note["gpus"] == 0.25]
    for note in shares:
        there = [other for other in shares if other["visible"] == note["visible"] and _is_during(other, note["from"])]
        assert sum(other["gpus"] for other in there) <= 1.0
    assert len({notes[name]["visible"] for name in ("0", "1", "whole", "share")}) == 4


def test_what_a_worker_that_died_was_to_its_run_is_told_by_the_words_that_ray_leaves(launched):
    """A worker that was killed, and one whose own error speaks as Ray does of a lost node, have failed."""
    notes, reports = launched
    assert notes["whole"]["is_found"], "Ray tells us the node of an actor"
    assert all((reports[name]["status"], reports[name]["loss"]) == ("failed", "") for name in (KILLED, RAISES))
    assert reports[KILLED]["cause"] == "the worker died: The actor died unexpectedly before finishing this task"
    assert reports[RAISES]["cause"].startswith("the worker died: RuntimeError: The actor died because its node")


def _is_during(note: dict[str, float], moment: float) -> bool:
    return note["from"] <= moment < note["to"]
