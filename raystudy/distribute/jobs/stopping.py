"""Stop a job: ask, wait out its grace period, and tell from the study's storage whether its ledger is clean."""

import time
from collections.abc import Callable
from typing import Protocol

from raystudy.artifacts.files import names_in
from raystudy.artifacts.storage import Storage
from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server_errors import JobServerError
from raystudy.errors import RaystudyError
from raystudy.execute.driver_lock import find_holder

_MARGIN_SECONDS = 30.0  # Ray starts to wait a little later than we do, and kills after that
_POLL_SECONDS = 0.5


class Stops(Protocol):
    """What of a job server is asked for here."""

    def stop(self, job_id: str) -> bool: ...

    def job(self, job_id: str) -> Job: ...


def stop_job(
    server: Stops,
    job_id: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Job:
    """Stop a job and wait until it has ended; returns it as it ended.

    Raises:
        JobServerError: it has not ended long after its grace period.
    """
    job = server.job(job_id)
    if job.is_over:
        return job
    server.stop(job_id)
    deadline = clock() + job.stop_seconds + _MARGIN_SECONDS
    while clock() < deadline:
        job = server.job(job_id)
        if job.is_over:
            return job
        pause(_POLL_SECONDS)
    raise JobServerError(
        f"{job_id} must end within {job.stop_seconds:g} s of being stopped, but is still {job.status}. Look at "
        f"`raystudy logs {job_id}`, and stop it again"
    )


def ledger_words(storage: Storage | None, study: str) -> str:
    """Whether any driver holds the study, in words; `storage` None: not known."""
    if storage is None:
        return "its storage is not known here: `raystudy status STUDY --storage URI` tells whether a driver holds it"
    try:
        folder = storage.study(study).path
        if not names_in(folder):
            return f"{storage.root} cannot be looked at from here, or the study had not begun there"
        holder = find_holder(folder)
    except (RaystudyError, OSError) as error:
        return f"the ledger cannot be looked at from here ({error})"
    if holder is None:
        return "the ledger is clean: finished runs are kept and no driver holds the study"
    return (
        f"finished runs are kept, but {holder} is still named as its driver: it was killed, or another job runs the "
        f"study. The next driver takes over after a minute without a sign of life"
    )
