"""Nodes: a slow one, a late one, one with a full disk, one with other code; the cluster's temporary folder cleaned."""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.chaos.kills import SURVIVED
from tests.chaos.processes import kill
from tests.chaos.trials import STUDY, Seen, Stage
from tests.conftest import ROOT


@contextmanager
def _slowed(stage: Stage, name: str) -> Iterator[None]:
    """All processes of a node held back nine tenths of the time."""
    over = threading.Event()

    def hold_back() -> None:
        while not over.is_set():
            pids = stage.cluster.pids(name)
            kill(pids, signal.SIGSTOP)
            over.wait(0.45)
            kill(pids, signal.SIGCONT)
            time.sleep(0.05)

    thread = threading.Thread(target=hold_back)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def slow(stage: Stage) -> Seen:
    """A node ten times as slow as the other, from a random moment on."""
    job = stage.submit()
    stage.wait_for_work(job)
    with _slowed(stage, next(name for name in stage.cluster.nodes if name != "head")):
        stage.ended(job, SURVIVED)
    return stage.finish()


def joins(stage: Stage) -> Seen:
    """A node more, in the middle."""
    job = stage.submit()
    stage.wait_for_work(job, most=0.4)
    name = stage.cluster.add_node()
    stage.ended(job, SURVIVED)
    stage.cluster.wait_for_nodes()
    seen = stage.finish()
    stage.cluster.forget(name)
    return seen


def cleaned(stage: Stage) -> Seen:
    """The cluster's temporary folders emptied, logs too; what then ends ends honestly, and a new cluster goes on."""
    job = stage.submit()
    stage.wait_for_work(job)
    for folder in stage.cluster.folder.iterdir():
        if folder.is_dir() and folder.name != "home":
            for inside in folder.iterdir():
                if inside.is_symlink() or not inside.is_dir():
                    inside.unlink()
                else:
                    shutil.rmtree(inside, ignore_errors=True)
    stage.ended(job, ("FAILED", "no cluster", *SURVIVED), silent=True)
    stage.cluster.start()
    return stage.finish()


def disk_full(stage: Stage) -> Seen:
    """The disk of a node fills up: its temporary folder and its cache. Odd seeds: before the job reaches the node."""
    disk = stage.cluster.folder / "small-disk"
    cache, cache_there = stage.cluster.folder / "home" / ".cache", disk / "cache"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)], check=True)
    for folder in (cache, cache_there):
        folder.mkdir(exist_ok=True)
    name = stage.cluster.add_node({cache: cache_there}, disk=disk)
    stage.cluster.wait_for_nodes()
    if stage.seed % 2:
        _fill(disk)
    job = stage.submit()
    stage.wait_for_work(job)
    _fill(disk)
    stage.ended(job, SURVIVED)
    stage.cluster.forget(name)
    seen = stage.finish()
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    disk.rmdir()
    return seen


def _fill(disk: Path) -> None:
    for size in (2**20, 2**12):
        with suppress(OSError), (disk / f"filler-{size}").open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * size)


def other_code(stage: Stage) -> Seen:
    """A node whose own raystudy gives other numbers, which never count: the job's does, or (odd seeds: none travels)
    the driver's, and what the node is given moves on to others."""
    other = _altered(Path(stage.cluster.folder))
    name = stage.cluster.add_node({ROOT / "raystudy": other / "raystudy"})
    stage.cluster.wait_for_nodes()
    if stage.seed % 2 == 0:
        job = stage.submit()
    else:
        own = stage.cluster.folder / "own"
        own.mkdir(exist_ok=True)
        for part in ("search_spaces", "tests/chaos"):
            shutil.copytree(ROOT / part, own / part, dirs_exist_ok=True)
        run = ["python", "-m", "raystudy", "run", STUDY, "--storage", stage.place.location]
        job = stage.submit_plainly(["env", f"PYTHONPATH={ROOT}", *run], cwd=own)
    stage.wait_for_work(job, most=0.0)
    stage.ended(job, SURVIVED)
    stage.cluster.forget(name)
    return stage.finish()


def _altered(folder: Path) -> Path:
    """A copy of the package in which every loss of a random-feature model is half as much again."""
    other = folder / "other-code"
    if not other.exists():
        shutil.copytree(ROOT / "raystudy", other / "raystudy", ignore=shutil.ignore_patterns("__pycache__"))
        path = other / "raystudy" / "train" / "features.py"
        text = path.read_text()
        before = "float(own.loss(head)) for digest"
        assert before in text
        path.write_text(text.replace(before, "1.5 * float(own.loss(head)) for digest"))
    return other


ROWS: dict[str, Callable[[Stage], Seen]] = {
    "a slow node": slow,
    "a node joins in the middle": joins,
    "the cluster's temporary folder cleaned": cleaned,
    "a node's disk full": disk_full,
    "a node with other code": other_code,
}
