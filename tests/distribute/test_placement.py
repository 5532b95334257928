"""Which GPUs Ray gives to which task: on nodes with logical GPUs, by stub work that notes what it was given."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def test_whole_gpus_and_shares_of_one_are_each_task_s_own_and_shapes_do_not_wait_for_each_other(tmp_path, ray_cluster):
    command = [sys.executable, "-m", "tests.distribute.placed_work", str(tmp_path)]
    environment = {**os.environ, **ray_cluster}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    notes = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    kinds = Counter(note["gpus"] for note in notes)
    assert kinds == {1.0: 2, 0.25: 5, 0.0: 1}
    whole, shares = ([note for note in notes if note["gpus"] == gpus] for gpus in (1.0, 0.25))
    assert all(note["visible"] in set("0123") for note in whole + shares), "each sees one of the four GPUs and no other"
    for one, other in combinations(whole + shares, 2):
        if one["visible"] == other["visible"] and one["from"] < other["to"] and other["from"] < one["to"]:
            assert one["gpus"] == other["gpus"] == 0.25, "a whole GPU is nobody else's"
    for note in shares:
        there = [other for other in shares if other["visible"] == note["visible"] and _is_during(other, note["from"])]
        assert sum(other["gpus"] for other in there) <= 1.0
    assert len({note["visible"] for note in shares}) <= 2, "five quarters lie on the two GPUs that the whole ones leave"
    assert any(one["from"] < other["to"] and other["from"] < one["to"] for one in whole for other in shares)


def _is_during(note: dict[str, float], moment: float) -> bool:
    return note["from"] <= moment < note["to"]
