"""Running without Ray: workers that die, failures that are tried three times, a driver that is killed."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import raystudy.train.run
from raystudy.artifacts.shard_writer import write_tokens
from raystudy.artifacts.storage import Storage
from raystudy.errors import IncompleteError, StudyHeldError
from raystudy.execute.driver_lock import hold_study
from raystudy.execute.local import InlineExecutor, LocalExecutor, local_executor
from raystudy.execute.loop import Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.execute.shapes import Shape
from raystudy.execute.work import MAX_FAILURES, RunReport, Task, do_task, failed_reports
from raystudy.specs.load import load_study
from raystudy.study.results import StudyResults
from tests.conftest import ROOT, TINY, make_shards
from tests.train.test_training import a_run


@pytest.fixture
def tasks(tmp_path) -> list[Task]:
    view, validation = make_shards(tmp_path)
    return [
        Task((a_run(view, steps=30, seed=seed).model_dump_json(),), str(tmp_path), {validation: "v"})
        for seed in range(4)
    ]


def test_inline_and_in_workers_the_same_records_are_made(tasks, tmp_path):
    ledger = Storage(tmp_path).runs
    with InlineExecutor() as executor:
        assert [report.status for report in executor.run(tasks[:2])] == ["finished"] * 2
    inline = [ledger.read(task.task_id).result for task in tasks[:2]]
    curves = [ledger.read_curve(task.task_id) for task in tasks[:2]]
    for task in tasks[:2]:
        (ledger.folder(task.task_id) / "result.json").unlink()
    with LocalExecutor(2) as executor:
        assert {report.status for report in executor.run(tasks[:2])} == {"finished"}
    again = [ledger.read(task.task_id).result for task in tasks[:2]]
    assert [result["metrics"] for result in inline] == [result["metrics"] for result in again]
    assert curves == [ledger.read_curve(task.task_id) for task in tasks[:2]]
    assert inline[0]["provenance"]["packages"]["torch"]


def test_a_worker_that_is_killed_costs_its_task_one_failure_and_the_others_go_on(tasks):
    endless = a_run(tasks[0].specs()[0].shards, steps=10**6).model_dump_json()
    long = Task((endless,), tasks[0].storage, tasks[0].validation)
    with LocalExecutor(2) as executor:
        reports = executor.run([long, *tasks[1:]])
        done = [next(reports) for _ in range(3)]
        assert {report.status for report in done} == {"finished"}
        (victim,) = (worker.process for worker in executor._busy)
        os.kill(victim.pid, signal.SIGKILL)
        (failed,) = reports
        assert failed.seconds > 0.1, "a device was held until the worker died"
        assert (failed.run_id, failed.status) == (long.task_id, "failed")
        assert "killed by signal 9" in failed.cause
        assert [report.status for report in executor.run(tasks[:1])] == ["finished"]


def test_a_failure_comes_back_with_its_cause_and_leaves_no_result(tasks, tmp_path):
    lost = tasks[0].runs[0].replace(tasks[0].specs()[0].shards, "no-such-shards")
    (report,) = do_task(Task((lost,), str(tmp_path), tasks[0].validation))
    assert report.status == "failed"
    assert "no-such-shards" in report.cause
    assert Storage(tmp_path).runs.read(report.run_id) is None


def test_a_new_validation_set_costs_an_evaluation_of_kept_weights_and_no_training(tasks, tmp_path):
    assert [(report.status, report.is_made) for report in do_task(tasks[0])] == [("finished", True)]
    _, other = make_shards(tmp_path, seed=1)
    run_id = tasks[0].task_id
    before = (tmp_path / "runs" / run_id / "result.json").read_bytes()
    more = Task(tasks[0].runs, str(tmp_path), {**tasks[0].validation, other: "other"})
    assert [(report.status, report.is_made) for report in do_task(more)] == [("finished", False)]
    assert (tmp_path / "runs" / run_id / "result.json").read_bytes() == before
    record = Storage(tmp_path).runs.read(run_id, [other])
    assert record.metric("loss", other) > 0
    assert record.metric("unigram-loss", other) > 0


class FailingExecutor(InlineExecutor):
    """A mock: every run fails."""

    def run(self, tasks):
        for task in tasks:
            yield from failed_reports(task, "planted")


class FinalExecutor(FailingExecutor):
    """A mock: as a group reports what it has given up."""

    def run(self, tasks):
        yield from (replace(report, is_final=True) for report in super().run(tasks))


class LyingExecutor(InlineExecutor):
    """A mock: every run is reported as finished, none leaves a record (a storage that the driver does not see)."""

    def run(self, tasks):
        for task in tasks:
            yield from (RunReport(run.run_id, "finished") for run in task.specs())


def test_a_run_is_tried_three_times_in_a_launch_then_named_with_its_cause(tmp_path, tiny_storage):
    (tmp_path / "shards").symlink_to(tiny_storage / "shards")
    (tmp_path / "built").symlink_to(tiny_storage / "built")
    launch = run_study(load_study(TINY), Storage(tmp_path), FailingExecutor, Progress(io.StringIO()))
    assert not launch.is_complete
    with pytest.raises(IncompleteError, match=r"balanced \| target \| lr 0.001 \| seed 0: planted"):
        launch.raise_if_incomplete()
    some = next((tmp_path / "runs").iterdir())
    assert len(list((some / "attempts").iterdir())) == MAX_FAILURES
    assert any("runs wait for the sweep" in line for line in launch.waiting)


def test_a_run_that_was_tried_often_enough_is_not_tried_again_in_the_launch(tmp_path, tiny_storage):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    launch = run_study(load_study(TINY), Storage(storage), FinalExecutor, Progress(io.StringIO()))
    assert not launch.is_complete
    tried = [len(list((run / "attempts").iterdir())) for run in (storage / "runs").iterdir()]
    assert tried
    assert set(tried) == {1}


def test_runs_whose_records_the_driver_cannot_see_end_the_launch_with_the_reason(tmp_path, tiny_storage):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    launch = run_study(load_study(TINY), Storage(storage), LyingExecutor, Progress(io.StringIO()))
    with pytest.raises(IncompleteError, match="its record is not on the storage that the driver sees"):
        launch.raise_if_incomplete()


def test_a_task_of_several_runs_leaves_a_record_for_each(tasks, tmp_path):
    pack = Task(tuple(run for task in tasks[:2] for run in task.runs), str(tmp_path), tasks[0].validation)
    with LocalExecutor(1) as executor:
        assert [report.run_id for report in executor.run([pack])] == [task.task_id for task in tasks[:2]]
    assert all(Storage(tmp_path).runs.read(task.task_id).status == "finished" for task in tasks[:2])


def test_whether_a_run_diverged_does_not_depend_on_its_validation_sets(tasks, tmp_path):
    """A set far from the training data may well end above its loss at initialisation; that is no divergence."""
    generator = np.random.default_rng(3)
    far = write_tokens(tmp_path, [generator.integers(1, 64, 300).astype(np.uint16) for _ in range(4)], [9] * 4, 64, 0)
    (report,) = do_task(Task(tasks[0].runs, str(tmp_path), {far: "far"}))
    assert report.status == "finished"
    record = Storage(tmp_path).runs.read(report.run_id)
    assert record.metric("loss", far) > record.metric("initial-loss", far)


def test_out_of_memory_ends_a_run_without_a_score_and_the_launch_says_so(tmp_path, tiny_storage, monkeypatch):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    real = raystudy.train.run.train

    def starved(run, *others, **asked):
        if run.model.width == 32 and run.seed == 1:
            raise MemoryError
        return real(run, *others, **asked)

    monkeypatch.setattr(raystudy.train.run, "train", starved)
    overrides = ["models.target.training.steps=2", "training.steps=2", "recipes=[balanced, crawl]"]
    launch = run_study(load_study(TINY, overrides), Storage(storage), InlineExecutor, Progress(io.StringIO()))
    with pytest.raises(IncompleteError, match=r"out of memory. Lower resources\.micro_batch_tokens"):
        launch.raise_if_incomplete()
    comparison = StudyResults(Storage(storage), Storage(storage).study("tiny")).comparison_json
    assert comparison["verdict"]["outcome"] == "blocked"
    assert "out of memory" in comparison["missing"][0]["reason"]


def test_a_complete_launch_raises_nothing():
    Launch("x").raise_if_incomplete()


def test_a_second_driver_waits_or_says_who_holds_the_study(tmp_path):
    with hold_study(tmp_path, wait=True, say=print):
        code = (
            "from pathlib import Path; from raystudy.execute.driver_lock import hold_study\n"
            f"with hold_study(Path({str(tmp_path)!r}), wait=False, say=print): pass"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert "StudyHeldError" in done.stderr
        assert f"process {os.getpid()} on" in done.stderr
    with hold_study(tmp_path, wait=False, say=print):
        pass
    assert StudyHeldError.exit_status == 5


def launch_driver(storage: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "raystudy", "run", str(TINY), "--storage", str(storage), *options]
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )


def results_on(storage: Path) -> dict[str, tuple[int, int]]:
    """Finished runs with when they were started (their spec is written anew at a start) and when they finished."""
    return {
        path.parent.name: (path.with_name("spec.json").stat().st_mtime_ns, path.stat().st_mtime_ns)
        for path in storage.glob("runs/*/result.json")
    }


def kill_in_the_middle(driver: subprocess.Popen[bytes], storage: Path, new: int) -> dict[str, tuple[int, int]]:
    """SIGKILL the driver once some runs more have finished; returns the results that were there."""
    deadline, enough = time.monotonic() + 90, len(results_on(storage)) + new
    while len(results_on(storage)) < enough:
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    time.sleep(1.0)  # workers notice that their driver is gone
    return results_on(storage)


def copy_inputs(source: Path, target: Path, lacking: int | None = None) -> Path:
    """A storage that has the shards of another, so that a test does not build them again.

    With `lacking` it has the runs too, all but every so manieth: of every wave, model and recipe some are left to make.
    """
    target.mkdir()
    for name in ("shards", "built", "floors"):
        if (source / name).exists():
            (target / name).symlink_to(source / name)
    for number, run in enumerate(sorted((source / "runs").iterdir()) if lacking else ()):
        if number % lacking:
            shutil.copytree(run, target / "runs" / run.name)
    return target


def test_a_driver_killed_in_the_middle_loses_no_finished_run_and_repeats_none(tmp_path, tiny_storage, cli):
    storage = copy_inputs(tiny_storage, tmp_path / "storage", lacking=3)
    before = kill_in_the_middle(launch_driver(storage, "--local"), storage, new=6)
    time.sleep(0.5)
    assert results_on(storage) == before, "a worker lived on after its driver"
    done = cli("run", TINY, "--storage", storage, "--local")
    assert done.returncode == 0, done.stderr
    after = results_on(storage)
    assert {run: after[run] for run in before} == before
    undisturbed = StudyResults(Storage(tiny_storage), Storage(tiny_storage).study("tiny")).comparison_json
    assert without_seconds(
        StudyResults(Storage(storage), Storage(storage).study("tiny")).comparison_json
    ) == without_seconds(undisturbed)


def without_seconds(value):
    """A comparison without what may differ between executions."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if not key.endswith("_seconds")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_workers_are_one_per_core_unless_told():
    assert isinstance(local_executor(0), InlineExecutor)
    executor = local_executor(None)
    assert isinstance(executor, LocalExecutor)
    assert executor._places_for(Shape(0, 0, 1.0)) == [None] * len(os.sched_getaffinity(0))
