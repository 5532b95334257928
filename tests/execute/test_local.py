"""Running without Ray: workers that die, failures that are tried three times, a driver that is killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import IncompleteError, StudyHeldError
from raystudy.execute.driver_lock import hold_study
from raystudy.execute.local import InlineExecutor, LocalExecutor, local_executor
from raystudy.execute.loop import MAX_FAILURES, Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import Job, JobReport, do_job
from raystudy.specs.load import load_study
from raystudy.study.results import StudyResults
from tests.conftest import ROOT, TINY, make_shards
from tests.train.test_training import a_run


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    view, validation = make_shards(tmp_path)
    return [
        Job(a_run(view, steps=30, seed=seed).model_dump_json(), str(tmp_path), {validation: "v"}) for seed in range(4)
    ]


def test_inline_and_in_workers_the_same_records_are_made(jobs, tmp_path):
    ledger = Storage(tmp_path).runs
    with InlineExecutor() as executor:
        assert [report.status for report in executor.run(jobs[:2])] == ["finished"] * 2
    inline = [ledger.read(job.spec().run_id).result for job in jobs[:2]]
    curves = [ledger.read_curve(job.spec().run_id) for job in jobs[:2]]
    for job in jobs[:2]:
        (ledger.folder(job.spec().run_id) / "result.json").unlink()
    with LocalExecutor(2) as executor:
        assert {report.status for report in executor.run(jobs[:2])} == {"finished"}
    again = [ledger.read(job.spec().run_id).result for job in jobs[:2]]
    assert [result["metrics"] for result in inline] == [result["metrics"] for result in again]
    assert curves == [ledger.read_curve(job.spec().run_id) for job in jobs[:2]]
    assert inline[0]["provenance"]["packages"]["torch"]


def test_a_worker_that_is_killed_costs_its_job_one_failure_and_the_others_go_on(jobs):
    long = Job(
        **{
            **json.loads(json.dumps(jobs[0].__dict__)),
            "run": a_run(jobs[0].spec().shards, steps=10**6).model_dump_json(),
        }
    )
    with LocalExecutor(2) as executor:
        reports = executor.run([long, *jobs[1:]])
        done = [next(reports) for _ in range(3)]
        assert {report.status for report in done} == {"finished"}
        (victim,) = (worker.process for worker in executor._busy)
        os.kill(victim.pid, signal.SIGKILL)
        (failed,) = reports
        assert (failed.run_id, failed.status) == (long.spec().run_id, "failed")
        assert "killed by signal 9" in failed.cause
        assert [report.status for report in executor.run(jobs[:1])] == ["finished"]


def test_a_failure_comes_back_with_its_cause_and_leaves_no_result(jobs, tmp_path):
    broken = Job(jobs[0].run.replace(jobs[0].spec().shards, "no-such-shards"), str(tmp_path), jobs[0].validation)
    report = do_job(broken)
    assert report.status == "failed"
    assert "no-such-shards" in report.cause
    assert Storage(tmp_path).runs.read(report.run_id) is None


def test_a_new_validation_set_costs_an_evaluation_of_kept_weights_and_no_training(jobs, tmp_path):
    assert do_job(jobs[0]).status == "finished"
    _, other = make_shards(tmp_path, seed=1)
    run_id = jobs[0].spec().run_id
    before = (tmp_path / "runs" / run_id / "result.json").read_bytes()
    more = Job(jobs[0].run, str(tmp_path), {**jobs[0].validation, other: "other"})
    assert do_job(more).status == "finished"
    assert (tmp_path / "runs" / run_id / "result.json").read_bytes() == before
    record = Storage(tmp_path).runs.read(run_id, [other])
    assert record.metric("loss", other) > 0
    assert record.metric("unigram-loss", other) > 0


class FailingExecutor(InlineExecutor):
    """A mock: every run fails."""

    def run(self, jobs):
        yield from (JobReport(job.spec().run_id, "failed", cause="planted") for job in jobs)


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


def results_on(storage: Path) -> dict[str, float]:
    return {path.parent.name: path.stat().st_mtime_ns for path in storage.glob("runs/*/result.json")}


def kill_in_the_middle(driver: subprocess.Popen[bytes], storage: Path, at_least: int) -> dict[str, float]:
    """SIGKILL the driver once some runs have finished; returns the results that were there."""
    deadline = time.monotonic() + 90
    while len(results_on(storage)) < at_least:
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    time.sleep(1.0)  # workers notice that their driver is gone
    return results_on(storage)


def copy_inputs(source: Path, target: Path) -> Path:
    """A storage that has the shards of another, so that a test does not build them again."""
    target.mkdir()
    for name in ("shards", "built"):
        (target / name).symlink_to(source / name)
    return target


def test_a_driver_killed_in_the_middle_loses_no_finished_run_and_repeats_none(tmp_path, tiny_storage, cli):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    before = kill_in_the_middle(launch_driver(storage, "--local"), storage, at_least=8)
    time.sleep(0.5)
    assert results_on(storage) == before, "a worker lived on after its driver"
    done = cli("run", TINY, "--storage", storage, "--local")
    assert done.returncode == 0, done.stderr
    after = results_on(storage)
    assert {run: after[run] for run in before} == before
    undisturbed = StudyResults(Storage(tiny_storage), Storage(tiny_storage).study("tiny")).comparison
    assert without_seconds(
        StudyResults(Storage(storage), Storage(storage).study("tiny")).comparison
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
    assert executor.num_workers == len(os.sched_getaffinity(0))
