"""Runs of random-feature models that share a task share no failure, and what they take is told."""

import errno
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.artifacts.synthetic import write_synthetic
from raystudy.execute import feature_work
from raystudy.execute.work import Task, do_task, failed_reports
from raystudy.specs.model import RandomFeaturesSpec
from raystudy.specs.run import FEATURES_NUMERICS, FeaturesProbe, FeaturesRun
from raystudy.specs.synthetic import Domain, SyntheticDomains, mixture
from raystudy.specs.training import SgdSettings

DOMAINS = SyntheticDomains(inputs=8, domains={"x": Domain(exponent=1.2), "y": Domain(exponent=1.0)})
MODEL = RandomFeaturesSpec(kind="random-features", features=3)


@pytest.fixture
def shards(tmp_path):
    """Two recipes' shards and two validation sets."""
    mixtures = ({"x": 0.5, "y": 0.5}, {"x": 0.2, "y": 0.8}, {"x": 1.0}, {"y": 1.0})
    return [write_synthetic(tmp_path, mixture(DOMAINS, weights)) for weights in mixtures]


def a_run(shards, seed=0, steps=20):
    settings = SgdSettings(steps=steps, lr=0.1)
    about = {"kind": "train-features", "model": MODEL, "numerics": FEATURES_NUMERICS}
    return FeaturesRun(shards=shards, settings=settings, seed=seed, **about)


def a_probe(shards, validation):
    about = {"kind": "probe", "probe": "gradient-alignment", "model": MODEL, "numerics": FEATURES_NUMERICS}
    return FeaturesProbe(shards=shards, validation=validation, **about)


def do(root, runs, validation):
    """The reports of one task, by run id."""
    task = Task(tuple(run.model_dump_json() for run in runs), str(root), {digest: digest[:4] for digest in validation})
    reports = do_task(task)
    assert sorted(report.run_id for report in reports) == sorted(run.run_id for run in runs)
    return {report.run_id: report for report in reports}


def test_a_run_that_cannot_be_evaluated_fails_alone_with_its_own_cause(tmp_path, shards):
    recipe, _, first, second = shards
    runs = [a_run(recipe, seed) for seed in range(4)]
    do(tmp_path, runs, [first])
    lost = runs[1]
    next((tmp_path / "runs" / lost.run_id).glob("weights-*")).unlink()
    more = [*runs, a_run(recipe, seed=9), a_probe(recipe, first)]
    reports = do(tmp_path, more, [first, second])
    failed = {run_id: report.cause for run_id, report in reports.items() if report.status == "failed"}
    assert set(failed) == {lost.run_id}
    assert f"run {lost.run_id} must be evaluated on 1 more validation sets" in failed[lost.run_id]
    ledger = Storage(tmp_path).runs
    for run in (*runs[:1], *runs[2:], more[4]):
        assert ledger.read(run.run_id, [second]).metric("loss", second) is not None


def test_a_training_that_fails_names_only_what_was_trained_with_it_and_has_not_ended(tmp_path, shards, monkeypatch):
    ours, other, validation, _ = shards
    runs = [a_run(ours, seed) for seed in range(3)] + [a_run(other)]
    kept = feature_work.write_weights

    def fails_on_second(folder, step, arrays):
        if folder.name == runs[1].run_id:
            raise ValueError("planted")
        kept(folder, step, arrays)

    monkeypatch.setattr(feature_work, "write_weights", fails_on_second)
    reports = do(tmp_path, runs, [validation])
    assert [reports[run.run_id].status for run in runs] == ["finished", "failed", "failed", "finished"]
    assert reports[runs[1].run_id].cause == "ValueError: planted"
    assert [reports[run.run_id].is_made for run in runs] == [True, False, False, True]
    assert reports[runs[1].run_id].seconds == reports[runs[2].run_id].seconds > 0.0
    again = do(tmp_path, [*runs[:1], a_probe(ours, validation)], [validation])
    assert [(report.is_made, report.seconds > 0.0) for report in again.values()] == [(False, True)] * 2


def test_a_dead_worker_costs_its_task_the_time_it_had_gone_on(tmp_path, shards):
    recipe, _, validation, _ = shards
    runs = [a_run(recipe, seed) for seed in range(4)]
    do(tmp_path, runs[:1], [validation])
    task = Task(tuple(run.model_dump_json() for run in runs), str(tmp_path), {validation: "v"})
    own = Storage(tmp_path).runs.read(runs[0].run_id).seconds
    reports = failed_reports(task, "died", seconds=100.0)
    assert [(report.status, report.seconds, report.is_made) for report in reports] == [
        ("finished", own, False),
        *[("failed", pytest.approx((100.0 - own) / 3), False)] * 3,
    ]
    assert failed_reports(task, "died")[0].seconds == 0.0


def test_a_record_that_cannot_be_read_fails_its_run_alone(tmp_path, shards, monkeypatch):
    recipe, _, validation, _ = shards
    runs = [a_run(recipe, seed) for seed in range(3)]
    do(tmp_path, runs[:1], [validation])
    lost, read = tmp_path / "runs" / runs[0].run_id / "result.json", Path.read_bytes

    def fails(path):
        if path == lost:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    reports = do(tmp_path, runs, [validation])
    assert [reports[run.run_id].status for run in runs] == ["failed", "finished", "finished"]
    assert "cannot be read: Input/output error" in reports[runs[0].run_id].cause
