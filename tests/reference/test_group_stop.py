"""A group of workers that is to stop, as before a walltime ends: with mock ranks. Real ones: tests/slow/slurm.py."""

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from raystudy.artifacts.checkpoints import read_checkpoint_file, step_checkpoints
from raystudy.errors import StoppedError
from raystudy.execute.groups import FOLDER_VARIABLE, STOP_FILE, run_group
from raystudy.reference.checkpoint import Checkpoints
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.train import stop_request
from tests.reference.test_groups import a_task


def test_a_group_that_is_asked_to_stop_tells_its_ranks_and_is_no_failure(tmp_path):
    """Mock ranks, which end once they find the file that asks for it; run-task asks so when a walltime ends."""
    waits = "import os, pathlib, sys, time\n"
    waits += f"while not (pathlib.Path(os.environ['{FOLDER_VARIABLE}']) / '{STOP_FILE}').exists(): time.sleep(0.01)\n"
    timer = threading.Timer(0.2, stop_request.request, ["planted"])
    timer.start()
    try:
        with pytest.raises(StoppedError, match="planted"):
            run_group(a_task(tmp_path), (sys.executable, "-c", waits + "sys.exit(11)", "--"))
    finally:
        timer.join()
        stop_request.withdraw()


class MockWorld:
    """One rank that hears of all what rank 0 says: `told`, or itself where that is None."""

    size, device, is_first = 2, "cpu", True

    def __init__(self, told=None):
        self.told, self.num_broadcasts = told, 0

    def broadcast(self, value):
        self.num_broadcasts += 1
        return value if self.told is None else self.told

    def first(self, action):
        return action()


@pytest.mark.parametrize("minutes", [None, 10])
def test_ranks_stop_after_the_same_step_as_rank_0_says_with_a_checkpoint_of_it(tmp_path, minutes):
    engine = DeepSpeedEngine(kind="deepspeed", workers=2, checkpoint_minutes=minutes)
    training = SimpleNamespace(step=7, state=lambda: ({"w": np.ones(2)}, {"step": 7}))
    asked = []
    calm = Checkpoints(tmp_path, "r", engine, MockWorld(), must_stop=lambda: bool(asked))
    assert calm.keep_if_due(training) == 0.0
    assert not step_checkpoints(tmp_path)
    asked.append(True)
    with pytest.raises(StoppedError, match="stopped after step 7 of run r"):
        calm.keep_if_due(training)
    (path,) = step_checkpoints(tmp_path)
    assert read_checkpoint_file(path, "r").step == 7
    other = Checkpoints(tmp_path, "r", engine, MockWorld(told=[False, True]), must_stop=lambda: False)
    with pytest.raises(StoppedError):
        other.keep_if_due(training)
    alone = MockWorld()
    assert Checkpoints(tmp_path, "r", engine, alone).keep_if_due(training) == 0.0
    assert alone.num_broadcasts == (minutes is not None), "no word where nobody can ask and no clock counts"
