"""The storage: read-only, full, and back. A folder in memory, mounted in the namespace alone."""

import subprocess
from collections.abc import Callable

from tests.chaos.trials import Seen, Stage

REFUSED = ("FAILED", "SUCCEEDED")  # the latter where it had ended before


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _unmount(stage: Stage) -> None:
    subprocess.run(["umount", "--lazy", str(stage.storage)], check=True)


def read_only(stage: Stage) -> Seen:
    """The storage cannot be written from a random moment on; then it can."""
    stage.storage.mkdir(parents=True)
    _mount("-t", "tmpfs", "tmpfs", str(stage.storage))
    job = stage.submit()
    stage.wait_for_work(job)
    _remount(stage, "ro")
    stage.ended(job, REFUSED)
    _mount("-o", "remount,rw", str(stage.storage))
    return _finished(stage)


def _remount(stage: Stage, option: str) -> None:
    """Refused by the system while a file is open for writing: tried until it is not."""
    for _ in range(1000):
        if (
            subprocess.run(["mount", "-o", f"remount,{option}", str(stage.storage)], capture_output=True).returncode
            == 0
        ):
            return
    raise AssertionError(f"{stage.storage} could not be remounted {option}")


def full(stage: Stage) -> Seen:
    """The storage has no room left from a random moment on; then it has."""
    stage.storage.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", "size=100m", "tmpfs", str(stage.storage))
    job = stage.submit()
    stage.wait_for_work(job)
    _fill(stage)
    stage.ended(job, REFUSED)
    (stage.storage / "filler").unlink()
    return _finished(stage)


def _fill(stage: Stage) -> None:
    try:
        with (stage.storage / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        pass


def _finished(stage: Stage) -> Seen:
    seen = stage.finish()
    _unmount(stage)
    return seen


ROWS: dict[str, Callable[[Stage], Seen]] = {
    "storage read-only, then not": read_only,
    "storage full, then room": full,
}
