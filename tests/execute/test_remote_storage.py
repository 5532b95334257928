"""A study whose storage is remote: built, trained, cut short, resumed, branched, evaluated and probed as on a folder.

`memory://` is this process's own remote storage, through fsspec as s3:// is. A node is a cache and what a process
remembers: a fresh one of both is another node.
"""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from raystudy.artifacts import sealed
from raystudy.artifacts.node_cache import take_fetched
from raystudy.artifacts.shards import shard_folder, shards_read_by
from raystudy.artifacts.storage import Storage, open_storage
from raystudy.errors import StorageError
from raystudy.execute.downstream_work import open_items_once
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.execute.workplace import _documents, _view
from raystudy.specs.load import load_study
from raystudy.study.results import StudyResults
from raystudy.train.checkpoint import Checkpoints
from tests.execute.test_budgets import SHORT, the_study
from tests.execute.test_trained_again import OFTEN
from tests.faults.trials import without_seconds

PROTOCOLS = f"""
  early: {SHORT}, at_steps: [5]}}
  smoothed: {SHORT}, readout: {{kind: ema, half_life: 3}}}}
  decayed: {SHORT}, branch: {{at: 10, steps: 4}}}}
"""
MORE = """
  near: {kind: gradient-alignment, model: proxy, batches: 2, seeds: [0], at: {protocol: truth}}
  likeness: {kind: likeness, order: 1}
"""


def on_a_fresh_node(monkeypatch, cache: Path) -> None:
    monkeypatch.setenv("RAYSTUDY_CACHE", str(cache))
    sealed._verified.clear()
    for remembered in (_view, _documents, open_items_once):
        remembered.cache_clear()
    take_fetched()


def launch(path: Path, storage: Storage, said: io.StringIO | None = None) -> Launch:
    return run_study(load_study(path), storage, InlineExecutor, Progress(said or io.StringIO()))


def numbers(path: Path, storage: Storage) -> Any:
    """The comparison, worked out anew, without the time that runs took."""
    results = StudyResults(storage, storage.study(load_study(path).spec.name))
    return without_seconds(results.comparison_json)


@pytest.fixture
def dying(monkeypatch) -> list[int]:
    """Every training on a remote storage dies once, after a checkpoint; the steps that trainings there go on from."""
    keep, restore = Checkpoints.keep_if_due, Checkpoints.restore
    died, resumed = set(), []

    def keep_and_die(self, step, parts):
        taken = keep(self, step, parts)
        if step >= 12 and not isinstance(self._folder, Path) and self._run_id not in died:
            died.add(self._run_id)
            raise OSError("the node is gone")
        return taken

    def told(self, parts):
        restore(self, parts)
        if not isinstance(self._folder, Path):
            resumed.append(self.resumed_from)

    monkeypatch.setattr(Checkpoints, "keep_if_due", keep_and_die)
    monkeypatch.setattr(Checkpoints, "restore", told)
    return resumed


def flip_a_byte(storage: Storage, path: Path, recipe: str) -> str:
    """Change a byte of the recipe's token shard on a remote storage; returns its digest."""
    view = storage.study(load_study(path).spec.name).read_study()[1]["shards"][recipe]
    (digest,) = shards_read_by(storage.root, view)
    tokens = shard_folder(storage.root, digest) / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(content)
    return digest


def test_a_study_on_a_remote_storage_gives_the_numbers_of_a_local_one_whatever_node_goes_on(
    tmp_path, monkeypatch, dying
):
    path, local = the_study(tmp_path, PROTOCOLS), Storage(tmp_path / "storage")
    remote, said = open_storage("memory://study/whole"), io.StringIO()
    on_a_fresh_node(monkeypatch, tmp_path / "first")
    assert launch(path, local).is_complete
    text = path.read_text()
    path.write_text(text + OFTEN)
    assert launch(path, remote, said).is_complete
    assert sorted(dying) == [0] * 9 + [12] * 6, "all but the short branches died, and went on from where they were"
    assert numbers(path, remote) == numbers(path, local)
    assert "fetched" not in said.getvalue(), "the node has what it built"

    more = text.replace("truth: truth", MORE.strip("\n") + "\ntruth: truth").replace(
        "models:", "  other: {source: {kind: text, files: [a.txt], holdout: 0.3}, max_documents: 2}\nmodels:"
    )
    path.write_text(more + "\ntasks: {next: {kind: continuation, validation: held, items: 4}}\n")
    before = {run: remote.runs.read(run).result for run in remote.runs.started()}
    on_a_fresh_node(monkeypatch, tmp_path / "full")
    with monkeypatch.context() as patch:
        full = shutil.disk_usage(tmp_path)._replace(free=10)
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(StorageError, match=r"the cache of a node must have room for .* has 10 bytes free") as told:
            launch(path, remote)
    assert told.value.exit_status == 3

    on_a_fresh_node(monkeypatch, tmp_path / "second")
    digest = flip_a_byte(remote, path, "a")
    assert launch(path, local).is_complete
    assert launch(path, remote, said).is_complete
    assert f"kept as {digest}.bad-0" in said.getvalue()
    assert f"fetched {shard_folder(remote.root, digest)}" not in said.getvalue()
    assert "fetched memory://study/whole/shards/" in said.getvalue()
    assert {run: remote.runs.read(run).result for run in before} == before, "nothing is lost"
    assert numbers(path, remote) == numbers(path, local)
    assert remote.runs.damage == []
    assert not [name for name in os.listdir() if name.startswith("memory")], "no folder is made of a URI"
