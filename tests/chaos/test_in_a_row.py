"""One job on a cluster of two nodes that loses a worker, a node and its driver, and is submitted again.

`make chaos` runs every fault of tests/chaos many times; this one trial runs among the tests.
"""

import pytest

from tests.chaos.namespace import can_be_made, run_inside


@pytest.mark.timeout(240)
def test_a_job_that_loses_a_worker_a_node_and_its_driver_goes_on_when_submitted_again_and_nothing_is_lost_or_repeated():
    if not can_be_made():
        pytest.skip("network, process and mount namespaces cannot be made here")
    done = run_inside("tests.chaos", ["in a row", "--trials", "1", "--no-result"], 220, capture=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1000: good" in done.stdout
