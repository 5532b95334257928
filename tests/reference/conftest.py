"""Groups of processes that the tests start, each once: two ranks for nearly all, then one and three."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.train.conftest import data  # noqa: F401 (a fixture)


def free_port() -> int:
    """A port of loopback that was free just now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def run_ranks(size: int, arguments: list[str], seconds: float) -> None:
    """Run `tests.reference.cases` as `size` ranks; if one fails or time is up, all are killed."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    place |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CXX": "/bin/false", "CC": "/bin/false"}  # no compiler
    command, ranks = [sys.executable, "-m", "tests.reference.cases", *arguments], []
    for rank in range(size):
        own = {**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(
            subprocess.Popen(command, cwd=ROOT, env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    ends, said = time.monotonic() + seconds, [""] * size
    try:
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            assert time.monotonic() < ends, f"{size} ranks took longer than {seconds} s"
            time.sleep(0.05)
    finally:
        for rank in ranks:
            rank.kill()
        said = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(said)
    (Path(arguments[3]) / f"said-{size}.txt").write_text("".join(said))


@pytest.fixture(scope="session")
def found(shard_storage, tmp_path_factory) -> Path:
    """The folder in which two ranks have left what they saw of every case."""
    storage, view, validation = shard_storage
    out = tmp_path_factory.mktemp("reference")
    run_ranks(2, [str(storage), view, validation, str(out), "pair"], 500)
    return out


@pytest.fixture(scope="session")
def found_by_others(shard_storage, found) -> Path:
    """The same folder, in which one rank and then three have left theirs too."""
    storage, view, validation = shard_storage
    for size in (1, 3):
        run_ranks(size, [str(storage), view, validation, str(found), "other"], 200)
    return found
