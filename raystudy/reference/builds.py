"""Where DeepSpeed's operations are built, and the way past what a killed build leaves behind.

torch builds an extension in a folder of its own below TORCH_EXTENSIONS_DIR, while it holds a file `lock` there open
(torch/utils/file_baton.py). Who finds that file waits, without a word and for ever, until it is gone; a build that was
killed never removes it. Most trainings build nothing; offloading to the host does, which takes minutes.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raystudy.artifacts.node_room import own_temporary_folder

VARIABLE = "TORCH_EXTENSIONS_DIR"
STALE_MINUTES = 10.0  # without a file written and no process seen that holds the lock; the longest file took under 3
_LOCK = "lock"
_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class BuildLock:
    """The lock of one operation's build. `holder`: the process that has it open; None: none is seen."""

    path: Path
    holder: int | None
    quiet_minutes: float  # since a file was last written beside it

    @property
    def is_stale(self) -> bool:
        """Whether whoever made it is gone, as far as can be seen here."""
        return self.holder is None and self.quiet_minutes >= STALE_MINUTES

    def __str__(self) -> str:
        held = f"held by process {self.holder}" if self.holder is not None else "no process is seen to hold it"
        return f"{self.path} ({held}; nothing written there for {self.quiet_minutes:.0f} minutes)"


def build_folder() -> Path:
    """Where operations are built: TORCH_EXTENSIONS_DIR, else the user's own folder for this machine.

    Outside any checkout, and one for each machine, Python and torch: what is built is fitted to these.

    Raises:
        OSError: as `own_temporary_folder`, for a user without a home that can be written.
    """
    told = os.environ.get(VARIABLE, "")
    return Path(told).absolute() if told else _own_folder()


def prepare_builds(say: Callable[[str], None]) -> Path:
    """Before deepspeed.initialize, on every rank: settle the build folder and remove stale locks; returns the folder.

    Sets TORCH_EXTENSIONS_DIR for this process and those it starts, where it is not set. From then on `say` is told
    when an operation is built.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    for lock in build_locks(folder):
        if lock.is_stale and remove_lock(lock):
            say(f"removed the lock of a build that was killed: {lock}")
    _tell_of_builds(folder, say)
    return folder


def build_locks(folder: Path) -> list[BuildLock]:
    """The locks of builds below `folder`: of those going on, and of those killed."""
    found = []
    for path in sorted(folder.glob(f"*/{_LOCK}")):
        with suppress(OSError):  # its build has just ended
            found.append(BuildLock(path, _holder(path), (time.time() - _last_written(path.parent)) / 60))
    return found


def remove_lock(lock: BuildLock) -> bool:
    """Remove a stale lock; False when it is gone already, or another build has it now."""
    try:
        seen = lock.path.stat()
        aside = lock.path.with_name(f"{_LOCK}-{os.getpid()}-{time.monotonic_ns()}")
        os.rename(lock.path, aside)
    except FileNotFoundError:
        return False
    is_ours = os.path.samestat(seen, aside.stat()) and _holder(aside) is None
    if not is_ours:  # a build began in between: give it back, unless yet another has begun
        with suppress(FileExistsError):
            os.link(aside, lock.path)
    aside.unlink()
    return is_ours


def _last_written(folder: Path) -> float:
    times = []
    for path in (folder, *folder.iterdir()):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _holder(lock: Path) -> int | None:
    """A process of ours that has `lock` open, as far as the system tells (Linux does)."""
    seen = lock.stat()
    for descriptor in _open_files():
        with suppress(OSError):
            if os.path.samestat(descriptor.stat(), seen):
                return int(descriptor.parts[-3])
    return None


def _open_files() -> Iterator[Path]:
    for process in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # ended, or another user's
            yield from list((process / "fd").iterdir())


def _own_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "none"
    tag = f"{platform.node() or 'machine'}-py{sys.version_info.major}{sys.version_info.minor}-torch{torch_version}"
    base = Path(cache)
    if not base.is_absolute() or not _can_make(base):
        base = own_temporary_folder()  # what lies there is loaded as code
    return base / "raystudy" / "torch-extensions" / tag


def _can_make(folder: Path) -> bool:
    """Whether `folder` is there and can be written, or can be made."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _tell_of_builds(folder: Path, say: Callable[[str], None]) -> None:
    """Have DeepSpeed say through `say` that it builds an operation, before it does and when it is done."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    original = getattr(OpBuilder.jit_load, "original", OpBuilder.jit_load)

    def jit_load(builder: OpBuilder, verbose: bool = True) -> object:
        del verbose  # its words go to standard output
        if (folder / builder.name / f"{builder.name}.so").exists():
            return original(builder, verbose=False)
        say(f"building DeepSpeed's {builder.name} in {folder}: this takes minutes, once on this machine")
        began = time.monotonic()
        built = original(builder, verbose=False)
        say(f"built DeepSpeed's {builder.name} in {time.monotonic() - began:.0f} s")
        return built

    jit_load.original = original  # type: ignore[attr-defined]  # so that a second call does not wrap the first
    OpBuilder.jit_load = jit_load
