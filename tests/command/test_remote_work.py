"""A command whose run lies on a remote storage works on its node, and goes on wherever it is tried again."""

from pathlib import Path

import pytest

from raystudy.artifacts.storage import open_storage
from raystudy.execute.command_work import KEPT
from raystudy.execute.work import RunReport, do_task
from raystudy.specs.reading import Asked, Reading
from tests.command.runs import HELD, a_run, a_task, commission
from tests.conftest import make_shards


@pytest.fixture
def on_node(tmp_path, monkeypatch):
    """Make the run on a node of that name, on a storage of its own."""
    root = f"memory://command/{tmp_path.name}"

    def make(node: str, *behaviour: str, asked: Asked | None = None) -> RunReport:
        monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / node))
        (report,) = do_task(a_task(root, commission(*behaviour), asked=asked))
        return report

    make.work = open_storage(root).runs.folder(a_run().run_id) / "work"
    make.ledger = open_storage(root).runs
    return make


def files_of(cache: Path) -> list[str]:
    """What lies in a node's work folders."""
    return [path.name for path in (cache / "work").rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_every_attempt_is_kept_and_another_node_goes_on_from_it_and_is_asked_for_more(on_node, tmp_path):
    first = on_node("one", "fails-twice")
    assert first.status == "failed"
    assert f"(all: {on_node.work / 'log.txt'})" in first.cause, "a place that stays"
    assert files_of(tmp_path / "one") == [], "all of it is on the storage"
    assert on_node("two", "fails-twice").status == "failed"
    assert on_node("one", "fails-twice").status == "finished", "the third attempt, on whatever node"
    assert len((on_node.work / "out" / "attempts").read_text().splitlines()) == 3
    assert (on_node.work / "log.txt").read_text().count("stub: attempt") == 3
    result = on_node.ledger.read(a_run().run_id).result
    more = on_node("three", asked=Asked(readings=(Reading(step=2),)))
    assert (more.status, more.is_made) == ("finished", False)
    assert on_node.ledger.read(a_run().run_id).result == result, "the first result stays"
    assert (on_node.work / "log.txt").read_text().count("stub: attempt 4") == 1
    assert len(on_node.ledger.read_evaluations(a_run().run_id)) == len(HELD)


def test_what_is_kept_and_is_not_whole_is_begun_anew_and_names_stay_in_the_folder(on_node, tmp_path):
    assert on_node("one", "exits-3").status == "failed"
    (on_node.work / "out" / "attempts").write_text("another upload, cut off")
    assert on_node("two", "exits-3").status == "failed"
    assert "another" not in (on_node.work / "out" / "attempts").read_text()
    kept = (on_node.work / KEPT).read_text()
    (on_node.work / KEPT).write_text(kept.replace("out/attempts", "out/../../../../../../escaped"))
    assert on_node("three", "exits-3").status == "failed"
    assert not list(tmp_path.rglob("escaped"))
    assert len((on_node.work / "out" / "attempts").read_text().splitlines()) == 1


def test_a_killed_workers_folder_is_gone_on_from_on_its_node(on_node, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("raystudy.execute.command_work.Work._keep", lambda _: None)  # the worker is killed before
        assert on_node("one", "fails-twice").status == "failed"
    assert "attempts" in files_of(tmp_path / "one")
    assert on_node("one", "fails-twice").status == "failed"
    assert len((on_node.work / "out" / "attempts").read_text().splitlines()) == 2


def test_a_trainer_reads_shards_of_a_remote_storage_on_its_node(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    root = f"memory://command/{tmp_path.name}"
    view, validation = make_shards(open_storage(root).root)
    own = commission().model_copy(update={"data": None, "held": {}})
    (report,) = do_task(a_task(root, own, a_run(shards=view), held={validation: "v"}))
    assert report.status == "finished", report.cause
    spec = open_storage(root).runs.folder(report.run_id) / "work" / "spec.json"
    told = spec.read_text()
    assert f'"path": "{tmp_path}/cache/' in told
    assert "memory://" not in told
    assert len(list((tmp_path / "cache").glob("*/*/tokens.bin"))) == 2, "the view's own shard lies beside it"
