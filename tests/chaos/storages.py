"""The storage: read-only, full, and back. A folder in memory, mounted in the namespace alone."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.chaos.trials import Seen, Stage

REFUSED = ("FAILED", "SUCCEEDED")  # the latter where it had ended before


def read_only(stage: Stage) -> Seen:
    """The storage cannot be written from a random moment on; then it can."""
    path = _mounted(stage)
    job = stage.submit()
    stage.wait_for_work(job)
    _remount(path, "ro")
    stage.ended(job, REFUSED)
    _remount(path, "rw")
    return _finished(stage, path)


def full(stage: Stage) -> Seen:
    """The storage has no room left from a random moment on; then it has."""
    path = _mounted(stage)
    job = stage.submit()
    stage.wait_for_work(job)
    with suppress(OSError), (path / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    stage.ended(job, REFUSED)
    (path / "filler").unlink()
    return _finished(stage, path)


def _mounted(stage: Stage) -> Path:
    """The trial's folder as a file system of its own."""
    path = Path(stage.place.location)
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(path)], check=True)
    return path


def _remount(path: Path, option: str) -> None:
    """Refused by the system while a file is open for writing: tried until it is not."""
    words = ["mount", "-o", f"remount,{option}", str(path)]
    for _ in range(1000):
        if subprocess.run(words, capture_output=True).returncode == 0:
            return
    raise AssertionError(f"{path} could not be remounted {option}")


def _finished(stage: Stage, path: Path) -> Seen:
    seen = stage.finish()
    subprocess.run(["umount", "--lazy", str(path)], check=True)
    return seen


ROWS: dict[str, Callable[[Stage], Seen]] = {
    "storage read-only, then not": read_only,
    "storage full, then room": full,
}
