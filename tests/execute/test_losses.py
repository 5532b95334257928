"""Nodes that are lost cost a run none of its tries, are counted apart and have a limit; a full disk moves runs on."""

import io
import json
from collections import Counter
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import NodeFullError, UnwritableError
from raystudy.execute import losses
from raystudy.execute.emitted import _failures, _given_up
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.tasks import make_tasks
from raystudy.execute.utilisation import Devices, Utilisation
from raystudy.execute.work import MAX_PREEMPTIONS, do_task, failed_report, lost_reports
from raystudy.specs.load import load_study
from raystudy.specs.study import Resources, ResourcesOverride
from raystudy.study.results import StudyResults
from raystudy.study.status import read_status
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import Wave
from tests.conftest import ROOT
from tests.planted import study_spec
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(60)

FEATURES = ROOT / "search_spaces" / "tiny-features.yaml"


class OnSpotNodes(InlineExecutor):
    """A mock: the node of each task is lost the first `times` times that one of its runs would be made."""

    devices = Devices(4.0)

    def __init__(self, times: int) -> None:
        self.times, self.lost = times, Counter[str]()

    def run(self, tasks):
        for task in tasks:
            if self.lost[task.task_id] < self.times:
                self.lost[task.task_id] += 1
                yield from lost_reports(task, "its node was lost", 1.0)
            else:
                yield from do_task(task)


def launched(storage, times):
    """How a launch on such nodes went, and what it said."""
    said = io.StringIO()
    launch = run_study(load_study(FEATURES), Storage(storage), lambda: OnSpotNodes(times), Progress(said))
    return launch, said.getvalue()


def test_losses_of_nodes_are_no_failures_and_records_and_status_tell_them_apart(tmp_path):
    launch, said = launched(tmp_path, times=5)
    assert launch.is_complete
    assert launch.num_preemptions >= 5
    assert "preempted: " in said
    assert "failed" not in said
    status = read_status(StudyResults(Storage(tmp_path), Storage(tmp_path).study("tiny-features")), None)
    assert status.num_preemptions == 0, "random-feature runs are made together, and their records say nothing of it"
    progress = json.loads((tmp_path / "studies" / "tiny-features" / "progress.json").read_text())
    assert progress["num_preemptions"] == launch.num_preemptions
    assert progress["device_time_used"]["cpu"] > 0.0
    assert "CPU-hours" in launch.device_time_used


def test_a_run_whose_node_is_always_lost_is_given_up_in_the_end(tmp_path, monkeypatch):
    assert MAX_PREEMPTIONS == 20
    monkeypatch.setattr(losses, "MAX_PREEMPTIONS", 2)  # each costs every run a file
    launch, _ = launched(tmp_path, times=10**9)
    assert set(launch.causes.values()) == {"its node was lost"}
    attempts = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/attempts/*.json")]
    lost = Counter(attempt["run"] for attempt in attempts if attempt.get("loss") == "preempted")
    failures = Counter(attempt["run"] for attempt in attempts if "loss" not in attempt)
    assert max(lost.values()) == 2
    assert set(failures.values()) == {1}
    status = read_status(StudyResults(Storage(tmp_path), Storage(tmp_path).study("tiny-features")), None)
    assert status.num_preemptions == lost.total()
    assert {failed.num_attempts for failed in status.failed} == {1}


def test_what_is_no_failure_of_a_run_leaves_it_in_the_waves_that_are_emitted(tmp_path):
    """Losses of nodes, and an end of memory after which it goes on with less."""
    run, storage = WantedRun(a_run("0" * 32), "r", "m"), Storage(tmp_path)
    for no_failure in ({"loss": "preempted"}, {"loss": "node-full"}, {"micro_batch_tokens": 64, "notes": []}) * 3:
        storage.runs.write_attempt(run.run_id, {"cause": "none of its own", **no_failure})
    wave = Wave((run,), (), {run.run_id: run})
    assert _given_up(_failures(wave, storage)) == {}
    for number in range(3):
        storage.runs.write_attempt(run.run_id, {"cause": f"failure {number}"})
    assert _given_up(_failures(wave, storage)) == {str(run): "failure 2"}


def test_a_full_disk_of_a_node_moves_the_run_on_where_there_is_another_and_else_ends_the_launch(tmp_path):
    class Full(OnSpotNodes):
        def run(self, tasks):
            for task in tasks:
                self.lost[task.task_id] += 1
                if self.lost[task.task_id] > self.times:
                    yield from do_task(task)
                    continue
                for run in task.specs():
                    report = failed_report(run.run_id, NodeFullError("no room on this node"))
                    yield replace(report, is_unwritable=self.times > 1)

    said = io.StringIO()
    moved = run_study(load_study(FEATURES), Storage(tmp_path / "a"), lambda: Full(1), Progress(said))
    assert moved.is_complete
    assert moved.num_preemptions == 0
    assert "moved on: " in said.getvalue()
    with pytest.raises(UnwritableError, match="no room on this node"):
        run_study(load_study(FEATURES), Storage(tmp_path / "b"), lambda: Full(2), Progress(io.StringIO()))


def test_a_model_s_own_resources_are_those_of_its_runs_and_of_no_others():
    plain = study_spec()
    name = next(iter(plain.models))
    own = plain.models[name].model_copy(update={"resources": ResourcesOverride(gpus_per_run=0.25)})
    study = plain.model_copy(update={"models": {**plain.models, name: own}})
    assert study.own_resources == {name: Resources(gpus_per_run=0.25)}
    runs = [WantedRun(a_run("0" * 32, seed=seed), "r", model) for seed, model in enumerate((name, "another"))]
    tasks = make_tasks(runs, "/s", {}, study.resources, own=study.own_resources)
    assert [(task.gpus, task.cpus, task.device, task.num_devices) for task in tasks] == [
        (0.25, 1.0, "cuda", 0.25),
        (0.0, 1.0, "cpu", 1.0),
    ]
    clock = iter((0.0, 10.0, 20.0, 20.0)).__next__
    used = Utilisation(study, clock)
    used.has(Devices(8.0, 2.0))  # at 10 s
    used.ended(runs[0], 20.0)
    used.ended(runs[1], 20.0)
    used.has(Devices(8.0, 2.0))
    assert used.shares == {"cpu": 20.0 / 80.0, "cuda": 0.25 * 20.0 / 20.0}
    assert used.words() == "device time used by runs: 25% of 0.0222 CPU-hours and 25% of 0.00556 GPU-hours"
