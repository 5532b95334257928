"""Of what Ray Train and the ranks say of a group a person gets the first cause, in one line."""

import pickle

import pytest

from raystudy.distribute.rank_errors import RankError, group_cause
from raystudy.execute.first_cause import Cause


class RayActorError(Exception):
    """As Ray's is laid out."""


class WorkerHealthCheckFailedError(Exception):
    """As Ray Train's is."""


RESET = RankError.of(Cause("consequence", "RuntimeError: Connection reset by peer", 0, "r", 3))
NO_TOKENS = RankError.of(Cause("refused", "the shards must hold tokens", 2, "r", 3))
ODD = RankError.of(Cause("program", "ValueError: odd", 2, "r", 3))
MEMORY = RankError.of(Cause("out-of-memory", "no room", 2, "r", 3))
HANG = Cause("hang", "worker 1 of 3 hung", 1, step=7)
KILLED = WorkerHealthCheckFailedError(
    "A worker health check failed.\nThe actor died unexpectedly before finishing this task.\n\tclass_name: T\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the moon."
)
DIED = "worker 1 of 3 died: Worker unexpectedly exits with a connection error code 2. End of file."


@pytest.mark.parametrize(
    ("told", "errors", "kind", "words"),
    [
        (None, {0: RESET, 2: NO_TOKENS}, "refused", "the shards must hold tokens"),
        (NO_TOKENS.cause, {0: RESET, 2: NO_TOKENS}, "refused", "the shards must hold tokens"),
        (None, {0: RESET, 1: KILLED}, "died", DIED),
        (RESET.cause, {0: RESET, 1: KILLED}, "died", DIED),
        (ODD.cause, {1: KILLED, 2: ODD}, "died", DIED),  # what a rank says of another's death, in words not known
        (MEMORY.cause, {1: KILLED, 2: MEMORY}, "out-of-memory", "no room"),
        (HANG, {0: RESET, 1: KILLED}, "hang", "worker 1 of 3 hung"),  # the rank that found it ended itself
        (None, {0: RESET, 2: RESET}, "died", "worker 0 of 3 lost the others: RuntimeError: Connection reset by peer"),
        (None, {0: RESET, 2: ODD}, "program", "ValueError: odd"),
        (None, {1: ImportError("no torch")}, "program", "ImportError: no torch"),
        (None, {0: RayActorError("The actor died.")}, "died", "worker 0 of 3 died: The actor died."),
        (None, {0: RayActorError("")}, "died", "worker 0 of 3 died: Ray does not say why"),
        (Cause("died", "could not start"), {}, "died", "could not start"),
        (None, {}, "died", "the workers ended without a report"),
    ],
)
def test_a_silent_death_comes_first_then_what_a_rank_said_then_consequences(told, errors, kind, words):
    cause = group_cause(told, errors, 3)
    assert (cause.kind, cause.words) == (kind, words)


def test_a_cause_goes_through_ray_as_a_pickled_exception():
    assert pickle.loads(pickle.dumps(NO_TOKENS)).cause == NO_TOKENS.cause
