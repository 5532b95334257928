"""What all processes of a test session share is made by the first that asks for it."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def once_in_all_processes(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process which asks for `name` fills by `make`; the others find it filled."""
    base = factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # each of xdist's processes has a folder there
    folder, done = shared / name, shared / f"{name}.done"
    with _alone(shared / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
