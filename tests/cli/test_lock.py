"""`raystudy lock`: once, before the runs; the same content is told, other content refused; a word that is earned."""

import json

from raystudy.specs.run import read_run
from tests.conftest import FEATURES

NAME = "tiny-features"


def compared(verb, storage):
    status, out, _ = verb("compare", NAME, "--storage", storage, "--json")
    assert status == 0
    return json.loads(out)


def test_a_study_that_is_locked_before_it_runs_is_confirmatory_and_the_page_says_so(tmp_path, cli, verb):
    storage = tmp_path / "storage"
    status, out, _ = verb("lock", FEATURES, "--storage", storage)
    assert (status, "tiny-features: locked in" in out) == (0, True)
    assert cli("run", FEATURES, "--storage", storage, "--local", "--workers", "0").returncode == 0
    comparison = compared(verb, storage)
    assert comparison["confirmatory"] is True
    assert comparison["verdict"]["sentence"].startswith("Confirmatory: ")
    verb("report", NAME, "--storage", storage)
    assert "Confirmatory: locked at" in (storage / "studies" / NAME / "report.html").read_text()
    status, out, _ = verb("lock", FEATURES, "--storage", storage)
    assert (status, "is locked already, with the same content" in out) == (0, True)
    verb("export", NAME, "--storage", storage, "--out", tmp_path / "x.parquet")
    verb("import", tmp_path / "x.parquet", "--storage", tmp_path / "new")
    assert compared(verb, tmp_path / "new") == comparison


def test_a_lock_after_the_runs_is_not_confirmatory(storage, verb):
    status, out, _ = verb("lock", FEATURES, "--storage", storage)
    assert (status, "147 runs on this storage were started before" in out) == (0, True)
    comparison = compared(verb, storage)
    assert comparison["confirmatory"] is False
    assert comparison["confirmatory_reason"].startswith("147 of 147 records were started before the lock")
    assert "onfirmatory" not in comparison["verdict"]["sentence"]


def test_a_run_that_had_only_been_started_is_listed(tmp_path, storage, verb):
    run = next((storage / "runs").iterdir())
    (tmp_path / "new" / "runs" / run.name).mkdir(parents=True)
    (tmp_path / "new" / "runs" / run.name / "spec.json").write_bytes((run / "spec.json").read_bytes())
    verb("lock", FEATURES, "--storage", tmp_path / "new")
    lock = json.loads((tmp_path / "new" / "studies" / NAME / "lock.json").read_text())
    assert lock["started_before"] == [run.name] == [read_run((run / "spec.json").read_text()).run_id]


def test_locking_again_with_other_content_is_refused_and_names_what_differs(tmp_path, verb):
    verb("lock", FEATURES, "--storage", tmp_path)
    before = (tmp_path / "studies" / NAME / "lock.json").read_bytes()
    changes = ["--set", "comparison.success=0.1", "--set", "protocols.reduced.lr.ratio=0.1"]
    status, _, told = verb("lock", FEATURES, "--storage", tmp_path, *changes)
    assert status == 2
    assert "with other content: candidates.reduced, success. Undo the change, or give the changed study a new" in told
    assert (tmp_path / "studies" / NAME / "lock.json").read_bytes() == before


def test_metric_and_success_that_mean_nothing_are_told(verb):
    status, _, told = verb("check", FEATURES, "--set", "comparison.primary_metric=loss/nosy")
    assert (status, "Did you mean 'loss/noisy'?" in told) == (2, True)
    status, _, told = verb("check", FEATURES, "--set", "comparison={success: 0.1}")
    assert (status, "there is no `contrast`" in told) == (2, True)
    assert verb("check", FEATURES, "--set", "comparison.success=0")[0] == 2
