"""SIGKILL: of a worker process, a node, the driver, the head, and of all at once."""

import signal
import time
from collections.abc import Callable

from tests.chaos.processes import all_pids, drivers, kill, named, trial_workers
from tests.chaos.trials import Seen, Stage

SURVIVED, KILLED, GONE = ("SUCCEEDED",), ("FAILED",), ("no cluster",)


def worker(stage: Stage) -> Seen:
    """A process that makes runs; the launch goes on."""
    job = stage.submit()
    stage.wait_for_work(job)
    if workers := trial_workers():
        kill([stage.moments.choice(workers)])
    stage.ended(job, SURVIVED)
    return stage.finish()


def node(stage: Stage) -> Seen:
    """A node's raylet, or all of the node's processes; the launch goes on elsewhere."""
    job = stage.submit()
    stage.wait_for_work(job)
    name = next(name for name in stage.cluster.nodes if name != "head")
    pids = stage.cluster.pids(name)
    kill(named("raylet", pids) if stage.seed % 2 else pids)
    stage.ended(job, SURVIVED)
    stage.cluster.forget(name)
    stage.cluster.complete()
    return stage.finish()


def driver(stage: Stage) -> Seen:
    """The driver; the cluster lives on."""
    job = stage.submit()
    stage.wait_for_work(job)
    kill(drivers())
    stage.ended(job, (*KILLED, *SURVIVED), silent=True)
    return stage.finish()


def head(stage: Stage) -> Seen:
    """The head's processes, its jobs' drivers among them, or (odd seeds) its server alone; then there is a new head."""
    job = stage.submit()
    stage.wait_for_work(job)
    pids = stage.cluster.pids("head")
    kill(named("gcs_server", pids) if stage.seed % 2 else [*pids, *drivers()])
    if stage.by_raystudy:  # whose follower waits ten minutes for a head that may come back: a person gives up
        time.sleep(10)
        job.follower.send_signal(signal.SIGINT)
    stage.ended(job, (*GONE, *SURVIVED), silent=True)
    stage.cluster.start()
    return stage.finish()


def everything(stage: Stage) -> Seen:
    """All there is: head, nodes, workers, driver and follower, in one go; then there is a new cluster."""
    job = stage.submit()
    stage.wait_for_work(job)
    kill(pid for pid in all_pids() if pid not in stage.cluster.spares)
    stage.ended(job, GONE, silent=True)
    stage.cluster.start()
    return stage.finish()


def in_a_row(stage: Stage) -> Seen:
    """A worker process, then a node, then the driver, of one job."""
    job = stage.submit()
    stage.wait_for_work(job, most=0.2)
    kill(trial_workers()[:1])
    stage.wait_for_work(job, least=0.25, most=0.4)
    name = next(name for name in stage.cluster.nodes if name != "head")
    kill(named("raylet", stage.cluster.pids(name)))
    stage.wait_for_work(job, least=0.45, most=0.7)
    kill(drivers())
    stage.ended(job, (*KILLED, *SURVIVED), silent=True)
    stage.cluster.forget(name)
    return stage.finish()


ROWS: dict[str, Callable[[Stage], Seen]] = {
    "SIGKILL of a worker process": worker,
    "SIGKILL of a node": node,
    "SIGKILL of the driver": driver,
    "SIGKILL of the head": head,
    "SIGKILL of all at once": everything,
    "SIGKILL of a worker, a node and the driver in a row": in_a_row,
}
