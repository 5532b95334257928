"""Follow a job's log to the job's end, whatever happens to the connection on the way.

The log socket may close while the job runs on; it is opened anew, and what comes again from the beginning is skipped
by its length, so that no line is lost or told twice. Only the job's status ends the following. Knows nothing of HTTP.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server_errors import JobServerError, LostError

_POLL_SECONDS = 1.0
_PENDING_SECONDS = 30.0  # longer than a job's environment takes: it waits for a node or a resource
_LOST_SECONDS = 600.0  # a laptop that wakes up, a head that restarts


class Followed(Protocol):
    """What of a job server is asked for here."""

    def tail(self, job_id: str) -> Iterator[str]: ...

    def logs(self, job_id: str) -> str: ...

    def job(self, job_id: str) -> Job: ...


def follow(
    server: Followed,
    job_id: str,
    write: Callable[[str], None],
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Job:
    """Write the log as it comes until the job has ended; returns the job.

    Raises:
        LostError: the server has not answered for ten minutes.
    """
    printer = _Printer(write)
    lost_since: float | None = None
    began, has_told = clock(), False
    while True:
        try:
            printer.follow(server.tail(job_id))
            job = server.job(job_id)
            if job.is_over:
                _print_rest(printer, server, job_id, say)
                return job
            lost_since = None
            if job.status == "PENDING" and job.message and not has_told and clock() - began > _PENDING_SECONDS:
                has_told = True
                say(f"{job_id} has not started: {job.message}")
        except LostError:
            now = clock()
            if lost_since is None:
                lost_since = now
                say("the connection is lost; a job goes on without it. Trying again ...")
            if now - lost_since > _LOST_SECONDS:
                raise
        pause(_POLL_SECONDS)


def _print_rest(printer: "_Printer", server: Followed, job_id: str, say: Callable[[str], None]) -> None:
    """What is left of the log of a job that has ended; its end counts even if the log's node has gone with the log."""
    try:
        printer.follow(iter([server.logs(job_id)]))
    except LostError:
        raise
    except JobServerError as error:
        say(f"the rest of the log of {job_id} is gone, as when its node is: {error}")


class _Printer:
    """Writes what it has not written yet of a log that is told from its beginning each time."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._written = write, 0

    def follow(self, chunks: Iterator[str]) -> None:
        seen = 0
        for chunk in chunks:
            new = chunk[max(self._written - seen, 0) :]
            seen += len(chunk)
            if new:
                self._write(new)
                self._written += len(new)
