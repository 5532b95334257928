"""A run that is trained again for readings, although it has a result, and is killed on the way: it goes on."""

import pytest

from raystudy.artifacts.checkpoints import checkpoint_path
from raystudy.artifacts.leftovers import remove_leftovers
from raystudy.artifacts.storage import Storage
from raystudy.train.checkpoint import Checkpoints
from tests.execute.test_budgets import CONSTANT, SHORT, launch, results_of, the_study

OFTEN = "\nresources: {checkpoint_minutes: 1.0e-9}\n"


@pytest.fixture
def resumed(monkeypatch) -> list[int]:
    """The steps that trainings go on from, as they begin."""
    found: list[int] = []
    restore = Checkpoints.restore

    def told(self, parts):
        restore(self, parts)
        found.append(self.resumed_from)

    monkeypatch.setattr(Checkpoints, "restore", told)
    return found


def test_a_run_trained_again_goes_on_from_its_checkpoint_in_the_next_launch(tmp_path, monkeypatch, resumed):
    path, storage = the_study(tmp_path, f"  plain: {SHORT}}}", CONSTANT), tmp_path / "storage"
    path.write_text(path.read_text() + OFTEN)
    assert launch(path, storage).is_complete
    results = {file: file.read_bytes() for file in storage.glob("runs/*/result.json")}
    path.write_text(path.read_text().replace(f"{SHORT}}}", f"{SHORT}, step: 15}}"))
    keep = Checkpoints.keep_if_due

    def dying(self, step, parts):
        taken = keep(self, step, parts)
        if step >= 12:
            raise OSError("the node is gone")
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep_if_due", dying)
        assert len(launch(path, storage).causes) == 3
    again = [file.parent for file in results if checkpoint_path(file.parent).exists()]
    assert len(again) == 3, "kept, since their readings lack"
    resumed.clear()
    assert launch(path, storage).is_complete
    assert resumed == [14] * 3, "three failures, each a step further"
    assert not any(checkpoint_path(folder).exists() for folder in again)
    assert results_of(path, storage).scores.query("protocol == 'plain'")["score"].notna().all()
    assert {file: file.read_bytes() for file in results} == results


def test_a_checkpoint_is_kept_while_its_run_is_not_done_and_removed_afterwards(tmp_path):
    storage = Storage(tmp_path)
    folder = storage.runs.folder("again")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    Checkpoints(folder, "again", "cpu", 0.0).keep_if_due(1, {})
    remove_leftovers(tmp_path, tmp_path / "studies" / "s", ["again"], unfinished={"again"})
    assert checkpoint_path(folder).exists()
    remove_leftovers(tmp_path, tmp_path / "studies" / "s", ["again"])
    assert not checkpoint_path(folder).exists()
