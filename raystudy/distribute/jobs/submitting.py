"""Whether a study is to be submitted, attached to, or is finished; and the submission itself.

The ids decide: two machines that submit the same study name the same job, of which the cluster takes one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from raystudy.artifacts.files import is_folder, is_remote
from raystudy.artifacts.storage import Storage
from raystudy.distribute.jobs.job import CONTENT_KEY, Job, attempts
from raystudy.distribute.jobs.server_errors import JobExistsError
from raystudy.distribute.jobs.submission import Submission
from raystudy.errors import RaystudyError, StorageError, UnreadableError
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave


class Submits(Protocol):
    """What of a job server is asked for here."""

    def submit(self, entrypoint: str, job_id: str, **options: object) -> None: ...

    def jobs(self) -> list[Job]: ...


@dataclass(frozen=True)
class Decision:
    """What to do with a study: `start` the job `job_id`, `attach` to it, or nothing: it is `done`."""

    action: Literal["start", "attach", "done"]
    job_id: str
    job: Job | None = None


def decide(prefix: str, jobs: Sequence[Job], content: str, is_complete: Callable[[], bool | None]) -> Decision:
    """What to do, by the attempts there are. `content`: digest of what would travel.

    A job that succeeded stands for a complete study, unless the storage, where it can be read from here
    (`is_complete`), shows otherwise or other files would travel now.
    """
    before = attempts(prefix, jobs)
    if not before:
        return Decision("start", f"{prefix}-a1")
    newest = before[-1]
    if not newest.is_over:
        return Decision("attach", newest.id, newest)
    is_same = newest.metadata.get(CONTENT_KEY) in (None, content)
    if newest.status == "SUCCEEDED" and is_same and is_complete() is not False:
        return Decision("done", newest.id, newest)
    return Decision("start", f"{prefix}-a{(newest.attempt or 0) + 1}")


def is_complete_on(storage: Storage, name: str) -> bool | None:
    """Whether the storage shows every wanted run of the study done; None where it cannot be read from here."""
    try:
        folder = storage.study(name)
        results = StudyResults(storage, folder)
        wave = make_wave(results.state)
        return not wave.todo and not wave.waiting
    except UnreadableError:
        return None
    except StorageError:
        return False if _is_there(storage) else None
    except (OSError, RaystudyError):
        return None


def _is_there(storage: Storage) -> bool:
    """Whether this machine sees the storage at all; a remote one that answers has said what it lacks."""
    return is_remote(storage.root) or is_folder(storage.root)


def submit(server: Submits, submission: Submission, prefix: str) -> Decision:
    """Submit; where another submission of the same study was faster, attach to its job.

    Raises:
        JobServerError: the job server refuses it.
    """
    try:
        server.submit(submission.entrypoint, submission.job_id, **submission.options)
    except JobExistsError:
        there = attempts(prefix, server.jobs())
        if not there:
            raise
        return Decision("attach", there[-1].id, there[-1])
    return Decision("start", submission.job_id)
