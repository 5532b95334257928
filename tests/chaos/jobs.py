"""What people do: stop a job, once and twice; leave its follower; submit one study twice, or two that share runs."""

import signal
import time
from collections.abc import Callable

from tests.chaos.cluster import HTTP
from tests.chaos.kills import SURVIVED
from tests.chaos.relay import relay
from tests.chaos.trials import STOPPED, Seen, Stage

EARLY = 0.3  # of all runs, at the most, when a stop is asked for: it takes seconds to reach the job


def stop(stage: Stage) -> Seen:
    """`ray job stop`."""
    job = stage.submit()
    stage.wait_for_work(job, most=EARLY)
    stage.stopped(job)
    return stage.finish()


def stop_twice(stage: Stage) -> Seen:
    """`ray job stop` twice, a moment apart."""
    job = stage.submit()
    stage.wait_for_work(job, most=EARLY)
    first = stage.stop(job)
    time.sleep(stage.moments.uniform(0, 1.0))
    second = stage.stop(job)
    stage.seen.check(first.wait(60) == 0, "the first stop was not taken")
    second.wait(60)
    stage.ended(job, STOPPED)
    return stage.finish()


def leave(stage: Stage) -> Seen:
    """Ctrl-C of the command that follows a job: the job goes on."""
    job = stage.submit()
    stage.wait_for_work(job)
    job.follower.send_signal(signal.SIGINT)
    code = job.follower.wait(30)
    stage.seen.check(code != 0, "a follower that was interrupted said that all is well")
    stage.ended(job, SURVIVED, follows=False)
    return stage.finish()


def cut(stage: Stage) -> Seen:
    """The follower's connections cut in the middle: the job goes on, and raystudy's follower ends as it does."""
    with relay(HTTP) as between:
        job = stage.submit(via=between.url)
        stage.wait_for_work(job)
        between.cut(stage.moments.uniform(0.5, 5))
        stage.ended(job, SURVIVED, follows=stage.by_raystudy)
    return stage.finish()


def twice(stage: Stage) -> Seen:
    """Two submits of one study: the second waits for the first."""
    first = stage.submit()
    time.sleep(stage.moments.uniform(0, 2.0))
    second = stage.submit()
    stage.wait_for_work(first)
    stage.ended(first, SURVIVED)
    return stage.finish(second)


def sharing(stage: Stage) -> Seen:
    """Two studies that want the same runs, at work at once."""
    first = stage.submit()
    time.sleep(stage.moments.uniform(0, 2.0))
    second = stage.submit("name=other")
    stage.wait_for_work(first)
    stage.ended(first, SURVIVED)
    return stage.finish(second)


def nothing(stage: Stage) -> Seen:
    """No fault: a job, and another that finds nothing to do."""
    job = stage.submit()
    stage.wait_for_work(job)
    stage.ask_status()
    stage.ended(job, SURVIVED)
    return stage.finish()


ROWS: dict[str, Callable[[Stage], Seen]] = {
    "no fault": nothing,
    "job stop": stop,
    "job stop, twice": stop_twice,
    "Ctrl-C of the follower": leave,
    "follower's connection cut": cut,
    "two submits of one study": twice,
    "two studies that share runs": sharing,
}
