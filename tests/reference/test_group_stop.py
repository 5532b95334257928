"""A group of workers that is to stop, as before a walltime ends: with mock ranks. Real ones: tests/slow/slurm.py."""

import sys
import threading

import pytest

from raystudy.errors import StoppedError
from raystudy.execute.groups import FOLDER_VARIABLE, STOP_FILE, run_group
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
