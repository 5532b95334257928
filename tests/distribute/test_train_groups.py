"""Groups of workers under Ray Train: a killed driver, a killed worker, an error of one rank; two Tuners' refusals.

Three runs of Ray Train, of work that trains nothing but talks through a real process group. Each launch is a process.
"""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from raystudy.distribute import cluster_nodes, tune_executor
from raystudy.distribute.connection import need_train
from raystudy.distribute.lanes import Lane, Lanes
from raystudy.distribute.tune_executor import TuneExecutor, run_group_trial
from raystudy.distribute.tune_lane import LaneEnd, Told
from raystudy.errors import MissingPackageError, SpecError
from raystudy.execute.work import RunReport, Task
from raystudy.specs.study import Resources
from tests.conftest import ROOT
from tests.distribute.group_work import (
    BESIDE,
    MEMBERS,
    RAISED,
    STEPS,
    a_group_task,
    a_task_beside,
    notes_on,
    train_together,
)
from tests.train.test_training import a_run

Launched = subprocess.Popen[str]


def launch(storage: Path, *happenings: str, **environment: str) -> Launched:
    """A launch of one task for each of the happenings (see group_work.py)."""
    command = [sys.executable, "-m", "tests.distribute.group_work", str(storage), *happenings]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, start_new_session=True, **pipes)


def results_on(storage: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in storage.glob("runs/*/result.json")}


def taken(notes: list[dict[str, Any]], run: str, rank: int) -> list[int]:
    return [note["step"] for note in notes if (note["run"], note["rank"]) == (run, rank)]


def wait_for(storage: Path, driver: Launched, run: str, step: int) -> None:
    deadline = time.monotonic() + 250
    while step not in taken(notes_on(storage), run, 0):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.timeout(600)  # 80 s where nothing else runs; processes that load Ray are slow where cores are shared
def test_killed_drivers_and_workers_cost_no_result_repeat_no_step_and_one_rank_s_error_is_told_once(
    tmp_path, ray_cluster
):
    """The driver dies in the first run, a worker in the second; in the third one rank fails while the other waits."""
    runs = [run.run_id for run in a_group_task(tmp_path, "slow").specs()]
    first = launch(tmp_path, "slow", **ray_cluster)
    try:
        wait_for(tmp_path, first, runs[0], step=3)
    finally:
        first.kill()
        first.communicate()
    time.sleep(1.0)  # Ray ends the actors of a driver that has gone
    before = notes_on(tmp_path)
    assert not results_on(tmp_path)

    second = launch(tmp_path, "slow", BESIDE, **ray_cluster)
    out, err = second.communicate(timeout=400)
    assert second.returncode == 0, out + err
    reports = [json.loads(line) for line in out.splitlines()[1:]]
    _check_times(reports, results_on(tmp_path), a_task_beside(tmp_path).task_id)
    reports = [report for report in reports if report["run_id"] in runs]
    assert [report["run_id"] for report in reports] == runs
    assert [report["status"] for report in reports] == ["finished", "finished", "failed"]
    assert [report["is_made"] for report in reports] == [True, True, False]
    assert reports[2]["cause"] == RAISED
    assert results_on(tmp_path).keys() == set(runs[:2])
    assert "worker 1 of 2 died: Worker unexpectedly exits" in reports[1]["note"]
    assert "begun again from its newest checkpoint" in reports[1]["note"]
    _check_steps(runs, before, notes_on(tmp_path))
    assert len(out.splitlines()) == 1 + MEMBERS + 1, out
    assert err == ""
    assert not list(tmp_path.glob("runs/*/.writing-*/start-*/beat-0.json"))[1:], (
        "the second launch left its meeting place"
    )


def _check_times(reports: list[dict[str, Any]], results: dict[str, int], beside: str) -> None:
    """A task beside the group does not wait for it; each run of the group is told of when it ends."""
    at = {report["run_id"]: report["at"] for report in reports}
    assert at.pop(beside) < min(at.values())
    for run_id, written in results.items():
        assert at[run_id] - written / 1e9 < 5.0
    assert max(at.values()) - min(at.values()) > 5.0, "the times prove nothing where all ended together"


def _check_steps(runs: list[str], before: list[dict[str, Any]], notes: list[dict[str, Any]]) -> None:
    """Every step is made, and none again but the one that each of the two deaths cut short."""
    assert {note["size"] for note in notes} == {2}
    assert len({note["pid"] for note in notes if note["rank"] == 0}) == 3  # two deaths, three groups
    reached = max(note["step"] for note in before)
    for rank in (0, 1):
        assert taken(notes, runs[0], rank) in (
            [*range(reached + 1), *range(reached, STEPS)],
            [*range(reached + 1), *range(reached + 1, STEPS)],
        )
        assert taken(notes, runs[1], rank) == [0, 1, 2, 3, 3, 4, 5]
        assert taken(notes, runs[2], rank) == [0, 1, 2], "an error that a person must mend was tried again"


class Cluster:
    """A Ray of one node of two CPUs that is connected to by entering it."""

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


@pytest.fixture
def blocks(monkeypatch) -> list[tuple[int, list[Task]]]:
    """What Tuners of an executor without Ray would be given: workers of the shape and tasks."""
    seen: list[tuple[int, list[Task]]] = []

    def note(_: TuneExecutor, lanes: Lanes, lane: Lane, events: Any) -> None:
        seen.append((lane.shape.workers, list(lane.tasks.values())))
        for number, task in enumerate(lane.tasks.values()):
            lanes.take(lane, str(number))
            reports = json.dumps([{"run_id": task.task_id, "status": "finished"}])
            events.put(Told(lane, task.task_id, reports, "", is_part=False))
            lanes.give_back(lane, str(number))
        events.put(LaneEnd(lane, None))

    monkeypatch.setattr(tune_executor, "connected", lambda _: Cluster())
    monkeypatch.setattr(cluster_nodes, "possible_nodes", lambda ray: (cluster_nodes.present_nodes(ray), False))
    monkeypatch.setattr(TuneExecutor, "_start", note)
    return seen


def test_each_shape_has_a_tuner_of_its_own_the_largest_first(tmp_path, blocks):
    plain = [Task((a_run("0" * 32, seed=seed).model_dump_json(),), str(tmp_path), {}) for seed in range(3)]
    one, two = a_group_task(tmp_path, "one", workers=1), a_group_task(tmp_path, "two")
    with TuneExecutor(None, [Resources()]) as executor:
        assert {report.status for report in executor.run([plain[0], one, plain[1], two, plain[2]])} == {"finished"}
    assert blocks == [(2, [two]), (1, [one]), (0, plain)]


def test_nothing_is_started_where_one_task_can_never_have_its_workers(tmp_path, blocks):
    fits, never = a_group_task(tmp_path, "fits"), a_group_task(tmp_path, "never", workers=3)
    with (
        TuneExecutor(None, [Resources()]) as executor,
        pytest.raises(SpecError, match=r"needs 3 workers x 0.9 CPU = 2.7 CPU .* but it has 2 CPU"),
    ):
        list(executor.run([fits, never]))
    assert blocks == []


@pytest.mark.usefixtures("blocks")
def test_nodes_that_have_gone_are_waited_for_and_not_for_ever(tmp_path, monkeypatch):
    task = Task((a_run("0" * 32).model_dump_json(),), str(tmp_path), {}, model="m")
    nodes = [[{"Alive": True, "Resources": {"CPU": 2.0}}]]
    monkeypatch.setattr(Cluster, "nodes", lambda _: nodes[0])
    with TuneExecutor(None, [Resources()]) as executor:
        assert len(list(executor.run([task]))) == 1
        nodes[0] = []
        monkeypatch.setattr(TuneExecutor, "_start", lambda *_: None)  # a Tuner whose trials never find a place
        monkeypatch.setattr(tune_executor, "_PATIENCE_SECONDS", 1.0)
        started = time.monotonic()
        with pytest.raises(SpecError, match="one run of model 'm', which needs 1 CPU on one node, but it has 0 CPU"):
            list(executor.run([task]))
        assert time.monotonic() - started >= 1.0


def test_a_trial_that_finds_the_storage_full_says_so_of_every_run_and_does_not_die(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("raystudy.distribute.train_group.meeting_place", full)
    task = a_group_task(tmp_path, "plain")
    config, tasks = {"task": {"task_id": task.task_id}}, {task.task_id: json.dumps(asdict(task))}
    ended = run_group_trial(config, tasks, {task.task_id: 0}, train_together)
    reports = [RunReport(**report) for report in json.loads(ended["raystudy_reports"])]
    assert [report.run_id for report in reports] == [run.run_id for run in task.specs()]
    assert all(report.status == "failed" and report.is_unwritable for report in reports)


def test_ray_without_its_train_part_is_one_clear_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(MissingPackageError, match=r"ray\[train\] must be installed .* Install raystudy\[cluster\]"):
        need_train()
