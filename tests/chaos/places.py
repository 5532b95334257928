"""Where a trial's records lie, and what can be seen of them from outside: a folder in memory, or a bucket."""

import os
import shutil
from pathlib import Path
from typing import Any, Protocol

from raystudy.artifacts.storage import open_storage
from raystudy.study.results import StudyResults
from tests.faults.trials import Times, comparison, results_on, without_seconds
from tests.object_store import BUCKET, Proxy

NAME = "chaos"
MEMORY = Path("/dev/shm/chaos")  # in the namespace alone


class Place(Protocol):
    """A storage as a trial sees it."""

    location: str

    def results(self) -> Times:
        """Finished runs, each with two figures that move when it is started or finished again."""

    def num_late(self) -> int:
        """Runs that were started after their result was there."""

    def num_damaged(self) -> int:
        """What was taken for damaged and kept aside."""

    def comparison(self) -> Any:
        """The study's comparison, worked out anew."""

    def remove(self) -> None:
        """All of it."""


class Folder:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.location = path, str(path)

    def results(self) -> Times:
        return results_on(self.path)

    def num_late(self) -> int:
        return sum(began > ended for began, ended in self.results().values())

    def num_damaged(self) -> int:
        return len(list(self.path.rglob("*.bad-*")))

    def comparison(self) -> Any:
        return comparison(self.path, NAME)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Bucket:
    """A folder of a bucket behind a proxy that notes what was written, in order (`tests/object_store.py`)."""

    def __init__(self, proxy: Proxy, name: str) -> None:
        self.proxy, self.location = proxy, f"s3://{BUCKET}/{name}"
        self._prefix = f"/{BUCKET}/{name}/"

    def _written(self) -> list[str]:
        """Keys below this folder, in the order of the writes that succeeded."""
        return [path[len(self._prefix) :] for path in list(self.proxy.faults.written) if path.startswith(self._prefix)]

    def results(self) -> Times:
        places: dict[str, tuple[int, int]] = {}
        for number, key in enumerate(self._written()):
            folder, _, name = key.rpartition("/")
            if folder.startswith("runs/") and name in ("spec.json", "result.json"):
                began, ended = places.get(folder, (0, 0))
                places[folder] = (number + 1, ended) if name == "spec.json" else (began, number + 1)
        return {folder.removeprefix("runs/"): pair for folder, pair in places.items() if pair[1]}

    def num_late(self) -> int:
        return sum(began > ended for began, ended in self.results().values())

    def num_damaged(self) -> int:
        return sum(".bad-" in key for key in self._written())

    def comparison(self) -> Any:
        storage = open_storage(self.location)
        return without_seconds(StudyResults(storage, storage.study(NAME)).comparison_json)

    def remove(self) -> None:
        """It goes with its server."""


def in_memory(seed: int) -> Folder:
    """A folder for one trial."""
    return Folder(MEMORY / f"storage-{seed}-{os.urandom(3).hex()}")
