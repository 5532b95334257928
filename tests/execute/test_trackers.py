"""Trackers are told of every finished run once, beside the launch, which they can neither slow nor fail."""

import argparse
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raystudy.artifacts.processes import is_alive
from raystudy.artifacts.storage import Storage
from raystudy.cli import track
from raystudy.errors import RaystudyError, SpecError
from raystudy.execute import tracking
from raystudy.execute.mlflow_tracker import MlflowConnection
from raystudy.execute.one_teller import hold_telling
from raystudy.execute.trackers import TrackedRun, tell_new
from raystudy.specs.tracking import MlflowTracker, Tracking
from raystudy.study.results import StudyResults
from tests.conftest import ROOT, TINY

SPEC = MlflowTracker(tracking_uri="http://127.0.0.1:1")


class FakeTracker:
    """Keeps what it is told by id, as a tracker does; goes down after so many runs, and may know what it has."""

    def __init__(self, most: int = 10**6, *, knows: bool = False) -> None:
        self.runs: dict[str, TrackedRun] = {}
        self.calls, self.most, self.knows = 0, most, knows

    def known(self, study: str) -> set[str]:
        return {run.run_id for run in self.runs.values() if run.study == study} if self.knows else set()

    def tell(self, run: TrackedRun) -> None:
        if self.calls >= self.most:
            raise ConnectionError("it is down at http://me:planted@host/\nand says so at length")
        self.calls += 1
        self.runs[run.run_id] = run

    def close(self) -> None:
        pass


@pytest.fixture
def results(tiny_storage, tmp_path) -> StudyResults:
    storage = tmp_path / "storage"
    shutil.copytree(tiny_storage, storage)
    return read(storage)


def read(root) -> StudyResults:
    storage = Storage(root)
    return StudyResults(storage, storage.study("tiny"))


def test_every_finished_run_is_told_once_whatever_interrupts_it(results):
    done = set(results.runs.query("status in ('finished', 'diverged')").run_id)
    assert len(done) > 50
    tracker = FakeTracker(most=20)
    with pytest.raises(ConnectionError):
        tell_new(results, SPEC, "mlflow", lambda: tracker)
    assert tracker.calls == 20
    tracker.most = 10**6
    assert tell_new(read(results.storage.root), SPEC, "mlflow", lambda: tracker) == len(done) - 20
    assert tracker.runs.keys() == done
    assert tracker.calls == len(done), "a run was told twice"
    assert tell_new(results, SPEC, "mlflow", lambda: pytest.fail("opened with nothing to tell")) == 0
    # Where the memory is lost or torn: a tracker that knows what it has is told of nothing, another of the same runs.
    (kept,) = (results.folder.path / "tracked").iterdir()
    kept.write_text('{"told": [')
    tracker.knows = True
    assert tell_new(results, SPEC, "mlflow", lambda: tracker) == 0
    assert tracker.calls == len(done)
    # Another experiment is another tracker.
    other = FakeTracker()
    assert tell_new(results, MlflowTracker(experiment="other"), "mlflow", lambda: other) == len(done)
    assert other.runs == tracker.runs


def test_a_tracked_run_says_what_the_record_says(results):
    tracker = FakeTracker()
    tell_new(results, SPEC, "mlflow", lambda: tracker)
    trained = results.runs.query("status == 'finished' and lr == lr").iloc[0]
    told = tracker.runs[trained.run_id]
    assert (told.study, told.status, told.seconds) == ("tiny", "finished", trained.seconds)
    assert told.parameters["recipe"] == trained.recipe
    assert told.parameters["lr"] == trained.lr
    losses = [value for name, value in told.metrics.items() if name.startswith("loss/")]
    assert sum(losses) / len(losses) == pytest.approx(trained.loss)
    assert [step for step, _ in told.curve] == sorted({step for step, _ in told.curve})
    assert all("train/loss" in row for _, row in told.curve)
    assert 1e9 < told.began < time.time()


def test_one_tracker_that_fails_keeps_no_other_from_being_told(results, monkeypatch):
    both = results.study.model_copy(update={"track": Tracking.model_validate({"mlflow": {}, "wandb": {}})})
    monkeypatch.setattr(results, "study", both)
    monkeypatch.setattr(tracking, "MlflowConnection", lambda *_: FakeTracker(most=3))
    monkeypatch.setattr(tracking, "WandbConnection", lambda *_: FakeTracker())
    told = dict(tracking.track(results))
    assert isinstance(told["MLflow"], RaystudyError)
    assert "it is down at http://host/. Nothing is lost" in str(told["MLflow"])
    assert "\n" not in str(told["MLflow"])
    assert told["W&B"] > 50


def test_a_launch_whose_tracker_is_not_there_says_so_once_and_ends_well(tiny_storage, tmp_path, cli):
    """Whether mlflow is not installed or its server does not answer."""
    storage = tmp_path / "storage"
    shutil.copytree(tiny_storage, storage)
    to = ("--set", "track.mlflow.tracking_uri=http://127.0.0.1:1")
    done = cli("run", ROOT / "search_spaces" / "tiny.yaml", "--storage", storage, "--local", *to)
    assert done.returncode == 0, done.stderr
    assert sum("mlflow" in line.lower() for line in done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    again = cli("track", "tiny", "--storage", storage)
    assert again.returncode != 0
    assert again.stderr.count("raystudy:") == 1
    refused = cli("check", ROOT / "search_spaces" / "tiny.yaml", "--set", "track.mlflow.tracking_uri=http://me:it@host")
    assert refused.returncode == 2
    assert "MLFLOW_TRACKING_PASSWORD" in refused.stderr


def test_an_address_that_depends_on_the_folder_is_refused_in_a_study_and_in_the_environment(monkeypatch):
    """In a Ray job it would be in the job's own copy of the folder, gone with it, and the runs noted as told."""
    for uri in ("./mlruns", "mlruns", "~/mlruns", "file:mlruns", "file://mlruns", "sqlite:///ml.db", "sqlite://"):
        with pytest.raises(ValueError, match=r"relative to the folder .* copy that goes with it. Write http://HOST"):
            MlflowTracker(tracking_uri=uri)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(SpecError, match="MLFLOW_TRACKING_URI: an address must be a server's, or an absolute path"):
            MlflowConnection(MlflowTracker(), "study")
    for uri in ("http://h:5000", "https://h", "/m", "file:/m", "file:///m", "sqlite:////m.db", "databricks", "uc:h"):
        assert MlflowTracker(tracking_uri=uri).tracking_uri == uri


def test_of_two_that_tell_at_once_one_waits_and_no_run_is_told_twice(results, monkeypatch, capsys):
    tracker = FakeTracker()
    tell = tracker.tell
    monkeypatch.setattr(tracker, "tell", lambda run: (time.sleep(2e-3), tell(run)))
    monkeypatch.setattr(tracking, "MlflowConnection", lambda *_: tracker)
    tracked = results.study.model_copy(update={"track": Tracking.model_validate({"mlflow": {}})})

    def opened(_):
        found = read(results.storage.root)
        monkeypatch.setattr(found, "study", tracked)
        return found

    monkeypatch.setattr(track, "open_results", opened)
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(track.call, [argparse.Namespace()] * 2)) == [0, 0]
    assert tracker.calls == len(tracker.runs) > 50
    told = capsys.readouterr()
    assert f"MLflow was told of {tracker.calls} runs" in told.out
    assert "MLflow has been told of all runs" in told.out
    with hold_telling(results.folder.path, print) as first, hold_telling(results.folder.path, print, 0.1) as second:
        assert (first, second) == (True, False), "who waits too long ends well"


def test_what_tells_beside_a_launch_ends_with_it(tmp_path):
    """Also where the launch is killed: the child is the real one but for what it does."""
    launch = (
        "import sys; from pathlib import Path; from raystudy.artifacts.storage import Storage; "
        "from raystudy.execute.tracking import TrackingBeside; from raystudy.specs.load import load_study; "
        f"beside = TrackingBeside(load_study(Path({str(TINY)!r})).spec, Storage(Path({str(tmp_path)!r})), print); "
        "beside._words = [sys.executable, '-c', 'import time; from raystudy.execute.rank_process import "
        "end_with_parent; end_with_parent(); print(0, flush=True); time.sleep(60)']; "
        "child = beside._start(sys.stdout); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", launch], stdout=subprocess.PIPE, text=True) as parent:
        pid = max(int(parent.stdout.readline()) for _ in range(2))  # its number, and its word that it is there
        assert is_alive(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_a_launch_waits_for_a_slow_tracker_a_limited_time_only(results, monkeypatch):
    monkeypatch.setattr(tracking, "_LAST_SECONDS", 0.5)
    study = results.study.model_copy(update={"track": Tracking.model_validate({"mlflow": {}})})
    said: list[str] = []
    started = time.monotonic()
    with tracking.TrackingBeside(study, results.storage, said.append) as beside:
        beside._words = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert time.monotonic() - started < 5
    assert len(said) == 1
    assert "in time" in said[0]
    without = results.study
    with tracking.TrackingBeside(without, results.storage, said.append) as beside:
        beside._words = ["/not/there"]
    assert len(said) == 1, "a study without trackers starts nothing"
