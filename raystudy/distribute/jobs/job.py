"""One job as the cluster's job server tells it, and the ids that raystudy gives. Knows nothing of HTTP."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import folder_name
from raystudy.distribute.jobs.entrypoint import RunLine, read_run
from raystudy.errors import SpecError
from raystudy.specs.base import digest
from raystudy.specs.study import StudySpec

STUDY_KEY, STORAGE_KEY, CONTENT_KEY = "raystudy_study", "raystudy_storage", "raystudy_content"  # of a job's metadata
_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_ID = re.compile(r"(raystudy-(.+)-[0-9a-f]{8})-a([1-9][0-9]{0,5})")
_MOST_EXIT_STATUS = 125  # beyond it shells and signals speak, not the driver


@dataclass(frozen=True)
class Job:
    """A job of the cluster. `started` and `ended` in seconds since 1970; `exit_code`: the driver's, where known.

    Stopped, it gets `stop_signal`, and is killed `stop_seconds` later: by default as Ray does it.
    """

    id: str
    status: str
    entrypoint: str = ""
    message: str = ""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"
    stop_seconds: float = 3.0

    @property
    def is_over(self) -> bool:
        """Whether it has ended, however."""
        return self.status in _OVER

    @property
    def is_study(self) -> bool:
        """Whether it runs a study, submitted by `raystudy submit` or by Ray's own command."""
        return bool(self.name) or self.line is not None

    @property
    def name(self) -> str:
        """The study's name; empty where only its file is known, of a job that Ray's own command submitted."""
        named = _ID.fullmatch(self.id)
        given = self.metadata.get(STUDY_KEY) or (named[2] if named else "")
        return given or (self.line.name if self.line else "")

    @property
    def study(self) -> str:
        """The study's name, else the file that it is in, else "-"."""
        return self.name or (self.line.file if self.line else "") or "-"

    @property
    def storage(self) -> str:
        """The storage that it was given; empty where that is not known."""
        return self.metadata.get(STORAGE_KEY) or (self.line.storage if self.line else "")

    @property
    def line(self) -> RunLine | None:
        """What its shell line says of a study."""
        return read_run(self.entrypoint)

    def answers(self, wanted: str) -> bool:
        """Whether `wanted` names its study; by the file only where the name is not known."""
        if self.name:
            return wanted in (self.name, folder_name(self.name))
        return self.line is not None and wanted.removeprefix("./") in self.line.names

    @property
    def attempt(self) -> int | None:
        """The number in its id; None where the id is not of raystudy's making."""
        named = _ID.fullmatch(self.id)
        return int(named[3]) if named else None

    @property
    def exit_status(self) -> int:
        """Of a verb that followed it to its end: 0 only if it succeeded, else the driver's own where it has one."""
        if self.status == "SUCCEEDED":
            return 0
        is_telling = self.exit_code is not None and 0 < self.exit_code <= _MOST_EXIT_STATUS
        return int(self.exit_code or 1) if self.status == "FAILED" and is_telling else 1


def id_prefix(study: StudySpec, root: Path, storage: str, endpoint: str = "") -> str:
    """What the ids of all attempts at this study, as it stands, on this storage begin with.

    The study's folder name and 8 hexadecimal digits of the digest of the resolved study and the storage, with the
    `endpoint` where it is reached, if one is set. Where the working folder `root` lies here is not in it: the same
    submission has the same id on every machine.
    """
    resolved = _without(study.model_dump(mode="json"), f"{root}/")
    told = [resolved, storage, endpoint] if endpoint else [resolved, storage]
    return f"raystudy-{folder_name(study.name)}-{digest(told)[:8]}"


def _without(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, root) for item in value]
    return f"{value}/".removeprefix(root) if isinstance(value, str) and f"{value}/".startswith(root) else value


def attempts(prefix: str, jobs: Iterable[Job]) -> list[Job]:
    """The jobs with this prefix, the newest attempt last."""
    found = [job for job in jobs if (named := _ID.fullmatch(job.id)) and named[1] == prefix]
    return sorted(found, key=lambda job: job.attempt or 0)


def find_job(wanted: str, jobs: Iterable[Job]) -> Job | None:
    """The job with this id, else the newest of the study with this name, of those that have not ended if there are.

    Raises:
        SpecError: several that run may be meant, since they are known by the names of their files alone.
    """
    listed = list(jobs)
    by_id = [job for job in listed if job.id == wanted]
    by_study = [job for job in listed if job.answers(wanted)]
    by_study.sort(key=lambda job: (not job.is_over, bool(job.name), job.started or 0.0, job.attempt or 0))
    alike = [job.id for job in by_study if not job.is_over and not job.name]
    if not by_id and len(alike) > 1 and by_study[-1].id in alike:
        raise SpecError(f"{wanted!r} must mean one job, but {', '.join(alike)} run such a file. Give the id")
    return next(iter(by_id or by_study[-1:]), None)
