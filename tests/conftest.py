"""What all tests share: the repository's root, a small study on synthetic shards, and the tiny study run once."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import Selected, open_tokens
from tests.once import once_in_all_processes

pytest_plugins = ["tests.ray_cluster", "tests.object_store", "tests.google_store", "tests.parallel", "tests.skips"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: what tests interrupt, and their processes, must hear of it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "search_spaces" / "tiny.yaml"
FEATURES = ROOT / "search_spaces" / "tiny-features.yaml"


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collections before each training in this process need not go through it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` is skipped, wherever it lies, where there is no CUDA device."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(f"torch {torch.__version__} finds no CUDA device here")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def run_cli(*arguments: object, cwd: Path = ROOT, timeout: float = 110, **environment: str):
    """`python -m raystudy ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "raystudy", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def cli():
    return run_cli


def make_shards(storage: Path, seed: int = 0, vocabulary: int = 64) -> tuple[str, str]:
    """A view and a validation shard of random but learnable tokens; their digests."""
    generator = np.random.default_rng(seed)
    documents = [
        (np.cumsum(generator.integers(1, 4, size=80)) % (vocabulary - 1) + 1).astype(np.uint16) for _ in range(60)
    ]
    tokens = write_tokens(storage, documents[:50], [200] * 50, vocabulary, 0)
    validation = write_tokens(storage, documents[50:], [200] * 10, vocabulary, 0)
    shard = open_tokens(storage, tokens)
    halves = (np.arange(30), np.arange(30, 50))
    drafts = [
        SourceDraft(name, weight, (Selected(shard, half),))
        for name, weight, half in zip("ab", (0.7, 0.3), halves, strict=True)
    ]
    return write_view(storage, "synthetic", drafts), validation


@pytest.fixture(scope="session")
def shard_storage(tmp_path_factory) -> tuple[Path, str, str]:
    """A storage with one view and one validation shard: (root, view digest, validation digest)."""
    storage = tmp_path_factory.mktemp("shards")
    return (storage, *make_shards(storage))


@pytest.fixture(scope="session")
def tiny_storage(tmp_path_factory) -> Path:
    """A storage on which the tiny study has run with `--local`."""

    def run(folder: Path) -> None:
        done = run_cli("run", TINY, "--storage", folder / "storage", "--local")
        assert done.returncode == 0, done.stderr

    return once_in_all_processes(tmp_path_factory, "tiny", run) / "storage"


@pytest.fixture(scope="session")
def features_source(tmp_path_factory) -> Path:
    """A storage on which tiny-features has run; not to be changed."""

    def run(folder: Path) -> None:
        done = run_cli("run", FEATURES, "--storage", folder / "storage", "--local", "--workers", "0")
        assert done.returncode == 0, done.stderr

    return once_in_all_processes(tmp_path_factory, "features", run) / "storage"
