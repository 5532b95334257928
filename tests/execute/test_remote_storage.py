"""A study whose storage is remote: built, trained, cut short, resumed, branched, evaluated and probed as on a folder.

`memory://` is this process's own remote storage, through fsspec as s3:// is. A node is a cache and what a process
remembers: a fresh one of both is another node.
"""

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from raystudy.artifacts import sealed
from raystudy.artifacts.node_cache import take_fetched
from raystudy.artifacts.shards import shard_folder, shards_read_by
from raystudy.artifacts.storage import Storage, open_storage
from raystudy.artifacts.weights import read_weights
from raystudy.cli.main import main
from raystudy.errors import StorageError
from raystudy.execute.downstream_work import open_items_once
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import Task, do_task
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


def dying(patch: pytest.MonkeyPatch) -> list[int]:
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

    patch.setattr(Checkpoints, "keep_if_due", keep_and_die)
    patch.setattr(Checkpoints, "restore", told)
    return resumed


@dataclass
class Made:
    """A study on a local storage, and on a remote one where every training died once; what the latter's launch said."""

    path: Path
    local: Storage
    remote: Storage
    resumed: list[int]
    said: str


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder, said = tmp_path_factory.mktemp("remote"), io.StringIO()
    path, local, remote = the_study(folder, PROTOCOLS), Storage(folder / "storage"), open_storage("memory://study/all")
    with pytest.MonkeyPatch.context() as patch:
        on_a_fresh_node(patch, folder / "first")
        assert launch(path, local).is_complete
        text = path.read_text()
        path.write_text(text + OFTEN)
        resumed = dying(patch)
        assert launch(path, remote, said).is_complete
    path.write_text(text)
    return Made(path, local, remote, resumed, said.getvalue())


def test_a_study_on_a_remote_storage_gives_the_numbers_of_a_local_one_also_where_its_runs_died(made):
    assert sorted(made.resumed) == [0] * 9 + [12] * 6, "all but the short branches died, and went on from there"
    assert numbers(made.path, made.remote) == numbers(made.path, made.local)
    assert "fetched" not in made.said, "the node has what it built"
    assert not [name for name in os.listdir() if name.startswith("memory")], "no folder is made of a URI"


def test_what_is_exported_from_a_remote_storage_is_that_of_a_local_one(made, tmp_path):
    name = load_study(made.path).spec.name
    run_id = next(run for run in sorted(made.remote.runs.started()) if has_weights(made.remote, run))
    for kind, storage in (("local", made.local), ("remote", made.remote)):
        place = ["--storage", str(storage.root)]
        assert main(["export", name, *place, "--out", str(tmp_path / f"{kind}.parquet")]) == 0
        assert main(["export-model", name, str(tmp_path / kind), "--run", run_id, *place]) == 0
    models = [load_file(tmp_path / kind / "model.safetensors") for kind in ("local", "remote")]
    assert all((models[0][tensor] == models[1][tensor]).all() for tensor in models[0].keys() | models[1].keys())
    assert main(["import", str(tmp_path / "remote.parquet"), "--storage", "memory://study/imported"]) == 0
    imported = open_storage("memory://study/imported")
    there = [StudyResults(storage, storage.study(name)).comparison_json for storage in (made.remote, imported)]
    assert there[0] == there[1]


def has_weights(storage: Storage, run_id: str) -> bool:
    return read_weights(storage.runs.folder(run_id), 20) is not None


def test_a_fresh_node_goes_on_where_a_full_one_stops_and_mends_what_is_damaged(made, tmp_path, monkeypatch):
    path, local, remote, said = tmp_path / "study.yaml", made.local, made.remote, io.StringIO()
    for file in made.path.parent.glob("*.txt"):
        shutil.copy(file, tmp_path)
    more = made.path.read_text().replace("truth: truth", MORE.strip("\n") + "\ntruth: truth")
    more = more.replace(
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
        inputs = remote.study(load_study(path).spec.name).read_study()[1]
        spec = json.dumps(next(iter(before.values()))["spec"])
        (report,) = do_task(Task((spec,), str(remote.root), {inputs["validation"]["held"]: "held"}))
    assert told.value.exit_status == 3
    assert (report.status, report.is_unwritable) == ("failed", True), "that of a worker stops a local launch"
    assert "has 10 bytes free" in report.cause
    on_a_fresh_node(monkeypatch, tmp_path / "fresh")
    digest = flip_a_byte(remote, path, "a")
    assert launch(path, local).is_complete
    assert launch(path, remote, said).is_complete
    assert f"kept as {digest}.bad-0" in said.getvalue()
    assert f"fetched {shard_folder(remote.root, digest)}" not in said.getvalue(), "it was built here"
    assert f"fetched {remote.root}/shards/" in said.getvalue()
    assert {run: remote.runs.read(run).result for run in before} == before, "nothing is lost"
    assert numbers(path, remote) == numbers(path, local)
    assert remote.runs.damage == []


def flip_a_byte(storage: Storage, path: Path, recipe: str) -> str:
    """Change a byte of the recipe's token shard on a remote storage; returns its digest."""
    view = storage.study(load_study(path).spec.name).read_study()[1]["shards"][recipe]
    (digest,) = shards_read_by(storage.root, view)
    tokens = shard_folder(storage.root, digest) / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(content)
    return digest
