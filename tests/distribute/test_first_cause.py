"""Of the errors of several ranks a person sees the first cause, in one line."""

import pytest

from raystudy.distribute.first_cause import first_cause, own_errors
from raystudy.errors import DataError


class RayActorError(Exception):
    """As Ray's is laid out."""


class WorkerHealthCheckFailedError(Exception):
    """As Ray Train's is."""


RESET = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection reset by peer [127.0.0.1]:4")
KILLED = WorkerHealthCheckFailedError(
    "A worker health check failed.\nThe actor died unexpectedly before finishing this task.\n\tclass_name: T\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file."
)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({0: RESET, 1: ValueError("no tokens\nare left")}, "worker 1 of 3 failed: ValueError: no tokens are left"),
        ({0: RESET, 2: DataError("the shards must lie there")}, "worker 2 of 3 failed: the shards must lie there"),
        ({0: RESET, 1: KILLED}, "worker 1 of 3 died: Worker unexpectedly exits with a connection error code 2. End"),
        ({0: ValueError("timed out"), 1: KILLED}, "worker 1 of 3 died: Worker unexpectedly exits"),
        ({0: RESET, 2: RESET}, "worker 0 of 3 failed: RuntimeError: [../third_party/gloo"),
        ({0: RayActorError("The actor died."), 1: RESET}, "worker 0 of 3 died: The actor died."),
        ({0: AssertionError()}, "worker 0 of 3 failed: AssertionError"),
        ({}, "the workers ended without a word"),
    ],
)
def test_a_death_comes_before_what_the_work_raised_and_that_before_its_consequences(errors, expected):
    told = first_cause(errors, 3)
    assert told.startswith(expected)
    assert "\n" not in told
    assert len(told) < 400


def test_a_lost_worker_is_tried_again_and_an_error_that_comes_again_is_not():
    assert own_errors({0: RESET, 1: KILLED}) == {}
    own = ValueError("bad")
    assert own_errors({0: own, 1: KILLED}) == {}
    assert own_errors({0: RESET, 1: own}) == {1: own}


def test_an_error_of_ours_that_speaks_of_a_refused_connection_is_no_consequence():
    own = DataError("the harness must answer, but: connection refused")
    assert own_errors({0: own}) == {0: own}
