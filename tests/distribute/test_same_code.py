"""A worker with another raystudy than the driver begins no run, and says what to do."""

import pickle

import pytest

import raystudy.distribute.same_code as same_code
from raystudy.distribute.same_code import SameCode, SameCodeOnRank
from raystudy.errors import NodeFullError, OtherCodeError
from raystudy.execute.code_digest import code_digest
from raystudy.execute.work import RunReport, Task
from raystudy.specs.model import RandomFeaturesSpec
from raystudy.specs.run import FEATURES_NUMERICS, FeaturesRun
from raystudy.specs.training import SgdSettings


@pytest.fixture
def task(tmp_path) -> Task:
    model = RandomFeaturesSpec(kind="random-features", features=4)
    settings = SgdSettings(steps=2, lr=0.1)
    run = FeaturesRun(
        kind="train-features", shards="00", model=model, settings=settings, seed=0, numerics=FEATURES_NUMERICS
    )
    return Task((run.model_dump_json(),), str(tmp_path), {})


def test_other_code_makes_no_run_and_the_report_says_what_to_do(task, monkeypatch, tmp_path):
    made: list[Task] = []

    def make(given: Task) -> list[RunReport]:
        made.append(given)
        return [RunReport(given.task_id, "finished")]

    monkeypatch.setattr(same_code, "do_task", make)
    ours = pickle.loads(pickle.dumps(SameCode(code_digest())))
    assert [report.status for report in ours(task)] == ["finished"]
    (report,) = SameCode("0123456789abcdef")(task)
    assert made == [task]
    assert report.status == "failed"
    assert report.is_unwritable, "the launch stops, or takes other nodes, as where a node's disk is full"
    assert "0123456789abcdef" in report.cause
    assert "raystudy submit" in report.cause
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OtherCodeError, match="differs") as raised:
        SameCodeOnRank("0123456789abcdef")(task, lambda _: None)
    assert isinstance(raised.value, NodeFullError)


def test_the_digest_is_that_of_the_source(tmp_path, monkeypatch):
    package = tmp_path / "raystudy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("x = 1\n")
    monkeypatch.setattr("raystudy.__file__", str(package / "__init__.py"))
    before = code_digest.__wrapped__()
    assert code_digest.__wrapped__() == before
    (package / "data.json").write_text("{}")
    assert code_digest.__wrapped__() == before
    (package / "one.py").write_text("x = 2\n")
    assert code_digest.__wrapped__() != before
