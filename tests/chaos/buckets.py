"""A bucket as storage, before which something goes wrong: calls that fail or are slow, none answered, no writes.

A smaller study than elsewhere: every call goes through a proxy and moto's server, both of Python.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import nodes
from tests.chaos.kills import KILLED, SURVIVED
from tests.chaos.places import Bucket
from tests.chaos.processes import drivers, kill
from tests.chaos.trials import Seen, Stage
from tests.object_store import ENVIRONMENT, Faults, Proxy, s3_server

SMALLER = ("recipes=[mix-0012, mix-0300, mix-3000]", "protocols.truth.seeds=[0, 1]")
REFUSED = (*KILLED, *SURVIVED)  # the latter where it had ended before
GONE_SECONDS, SLOW_SECONDS, LATENCY_SECONDS, FAILING = 60.0, 20.0, 2.0, 0.2


@contextmanager
def bucket_server(folder: Path) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """A server with an empty bucket, and the environment that reaches it by its proxy."""
    with s3_server(folder) as proxy:
        yield proxy, {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url}


def faults_of(stage: Stage) -> Faults:
    """What goes wrong before the stage's bucket."""
    assert isinstance(stage.place, Bucket)
    return stage.place.proxy.faults


def _heal(stage: Stage) -> None:
    faults = faults_of(stage)
    written = list(faults.written)
    faults.heal()
    faults.written[:] = written


def failing(stage: Stage) -> Seen:
    """A fifth of all calls fails from a random moment to the job's end."""
    job = stage.submit()
    stage.wait_for_work(job)
    faults_of(stage).failing = FAILING
    stage.ended(job, SURVIVED)
    _heal(stage)
    return stage.finish()


def slow(stage: Stage) -> Seen:
    """Every call takes two seconds more, for twenty seconds."""
    job = stage.submit()
    stage.wait_for_work(job)
    faults_of(stage).latency_seconds = LATENCY_SECONDS
    time.sleep(SLOW_SECONDS)
    _heal(stage)
    stage.ended(job, SURVIVED)
    return stage.finish()


def gone(stage: Stage) -> Seen:
    """No call is answered for a minute."""
    job = stage.submit()
    stage.wait_for_work(job)
    faults_of(stage).gone_for(GONE_SECONDS)
    stage.ended(job, SURVIVED)
    return stage.finish()


def _refusing(stage: Stage, status: int) -> Seen:
    job = stage.submit()
    stage.wait_for_work(job)
    faults_of(stage).refuses_writes = status
    stage.ended(job, REFUSED)
    _heal(stage)
    return stage.finish()


def read_only(stage: Stage) -> Seen:
    """Every write is refused from a random moment on; then none is."""
    return _refusing(stage, 403)


def full(stage: Stage) -> Seen:
    """There is no room from a random moment on; then there is."""
    return _refusing(stage, 507)


def driver(stage: Stage) -> Seen:
    """The driver is killed while records are written to a bucket."""
    job = stage.submit()
    stage.wait_for_work(job)
    kill(drivers())
    stage.ended(job, REFUSED, silent=True)
    return stage.finish()


ROWS: dict[str, Callable[[Stage], Seen]] = {
    "s3: 20% of calls fail": failing,
    "s3: 2 s latency, for 20 s": slow,
    "s3: gone for 60 s": gone,
    "s3: read-only (403), then not": read_only,
    "s3: full (507), then room": full,
    "s3: SIGKILL of the driver": driver,
    "s3: a node's disk full": nodes.disk_full,
}
