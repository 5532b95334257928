"""Whether a study is to be submitted, attached to, or is finished; and the submission itself.

The ids decide: two machines that submit the same study name the same job, of which the cluster takes one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from raystudy.artifacts.storage import Storage
from raystudy.distribute.jobs.job import CONTENT_KEY, Job, attempts
from raystudy.distribute.jobs.moved import changed_fields
from raystudy.distribute.jobs.server_errors import JobExistsError
from raystudy.distribute.jobs.submission import Submission
from raystudy.errors import RaystudyError, StorageError, UnreadableError
from raystudy.execute.frozen_data import find_data
from raystudy.specs.load import LoadedStudy
from raystudy.study.results import StudyResults, read_frozen
from raystudy.study.waves import make_wave

# What may differ from the stored study and nothing would be done anew.
_FREE = frozenset({"resources", "storage", "format", "budget"})


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
    """What to do, by the attempts there are and the storage. `content`: digest of what would travel.

    What the storage shows, where it can be read from here (`is_complete`), counts; else a job that succeeded stands for
    a complete study, unless other files would travel now.
    """
    newest = next(iter(attempts(prefix, jobs)[-1:]), None)
    if newest is not None and not newest.is_over:
        return Decision("attach", newest.id, newest)
    complete = is_complete()
    if newest is None:
        return Decision("done" if complete else "start", f"{prefix}-a1")
    is_same = newest.metadata.get(CONTENT_KEY) in (None, content)
    if complete or (complete is None and newest.status == "SUCCEEDED" and is_same):
        return Decision("done", newest.id, newest)
    return Decision("start", f"{prefix}-a{(newest.attempt or 0) + 1}")


def is_complete_on(storage: Storage, loaded: LoadedStudy) -> bool | None:
    """Whether the storage shows this very study with every wanted run done; None where that cannot be known here.

    Whether trackers that the study names have been told is not known.
    """
    if not storage.is_there or loaded.spec.track:
        return None
    try:
        folder = storage.study(loaded.spec.name)
        if not folder.is_there():
            return False
        stored = StudyResults(storage, folder)
        if changed_fields(stored.study, loaded.spec, _FREE):
            return False
        wave = make_wave(stored.state)
        if wave.todo or wave.waiting:
            return False
        data = find_data(loaded, storage, read_frozen(folder))  # last: it reads all text
        alike = [getattr(data.now, name) == getattr(stored.inputs, name) for name in ("shards", "validation", "tasks")]
        return all(alike)
    except UnreadableError:
        return None
    except StorageError:
        return False
    except (OSError, RaystudyError):
        return None


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
