"""The folder where the ranks of a group meet while Ray Train runs: what rank 0 leaves there, and what is read of it.

On the storage, so that all ranks see it wherever they are, and the trial that waits for them. For each start of the
workers it holds a folder `start-<time>` of their beats and causes (execute/hang_watch.py, execute/first_cause.py).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from raystudy.artifacts.files import (
    StoragePath,
    json_files,
    names_in,
    read_json,
    remove_folder,
    storage_errors,
    write_json,
    writing_name,
)
from raystudy.artifacts.storage import open_storage
from raystudy.errors import StorageError
from raystudy.execute.work import RunReport, Task

_AGAIN = "begun-again.json"  # in the folder of a start of the workers: the run that the loss before it cut short


def meeting_place(task: Task) -> AbstractContextManager[StoragePath]:
    """A folder that all ranks see, wherever they are; a launch removes it should its trial be killed."""
    return folder_below(open_storage(task.storage).runs.folder(task.task_id))


@contextmanager
def folder_below(parent: StoragePath) -> Iterator[StoragePath]:
    """A folder of the storage for a while; a launch removes it should this process be killed."""
    folder = parent / writing_name()
    if isinstance(folder, Path):  # elsewhere there are no empty folders
        with storage_errors(folder):
            folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        with suppress(StorageError):
            remove_folder(folder)


def newest_start(folder: StoragePath) -> StoragePath:
    """Where the workers left beats and causes when Ray Train started them last: after a preemption it does so again."""
    starts = _starts(folder)
    return folder / starts[-1] if starts else folder


def _starts(folder: StoragePath) -> list[str]:
    """Names of the folders of all starts, in their order."""
    return sorted(name for name in names_in(folder) if name.startswith("start-"))


def leave_report(folder: StoragePath, report: RunReport) -> None:
    """By rank 0: a run has ended."""
    with suppress(StorageError):
        write_json(folder / "reports" / f"{report.run_id}.json", asdict(report), durable=False)


def reports_in(folder: StoragePath) -> Iterator[RunReport]:
    """What rank 0 has reported so far; a report cut short by its death is left out."""
    for path in json_files(folder / "reports"):
        found = read_json(path)
        if found is not None:
            yield RunReport(**found)


def preemptions_in(folder: StoragePath) -> Counter[str]:
    """How often each run, by id, was begun again after Ray Train had started the workers anew."""
    found: Counter[str] = Counter()
    with suppress(StorageError):
        for start in _starts(folder):
            again = read_json(folder / start / _AGAIN)
            if again is not None:
                found[again["run_id"]] += 1
    return found


def note_start(folder: StoragePath, here: StoragePath, task: Task) -> Task:
    """On rank 0: see whether workers were started before in this run of Ray Train, and which run that cut short.

    Ray Train starts them anew by itself only where a node was preempted.
    """
    if any(name < here.name for name in _starts(folder)):
        ended = {report.run_id for report in reports_in(folder)}
        cut_short = next((run.run_id for run in task.specs() if run.run_id not in ended), None)
        if cut_short is not None:
            write_json(here / _AGAIN, {"run_id": cut_short}, durable=False)
    return replace(task, preemptions=dict(Counter(task.preemptions) + preemptions_in(folder)))
