"""One job on a cluster of two nodes that loses a worker, a node and its driver, and is submitted again.

`make chaos` runs every fault of tests/chaos many times; this one trial runs among the tests.
"""

import os

import pytest

from tests.chaos.namespace import run_inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of its own take root")


@pytest.mark.timeout(240)
def test_a_job_that_loses_a_worker_a_node_and_its_driver_goes_on_when_submitted_again_and_nothing_is_lost_or_repeated():
    done = run_inside("tests.chaos", ["in a row", "--trials", "1", "--no-result"], 220, capture=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1000: good" in done.stdout
