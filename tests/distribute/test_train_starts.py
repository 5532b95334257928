"""What a trial makes of Ray Train's runs, by a planted trainer in place of Ray's: no cluster, no processes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from raystudy.distribute import group_folder, train_group
from raystudy.distribute.group_places import Cluster, Node
from raystudy.errors import OtherCodeError
from raystudy.execute.first_cause import Cause, cause_of, leave_cause
from raystudy.execute.work import RunReport
from tests.distribute.group_work import a_group_task, train_together

pytestmark = pytest.mark.timeout(60)

OLD, NEW = Cause("program", "ValueError: of the first start", 1), Cause("program", "ValueError: of the second start", 0)


def planted(monkeypatch, fit) -> list[str]:
    """Let each run of Ray Train be a call of `fit` with the group's folder; the runs' names as they begin."""
    names: list[str] = []

    class Trainer:
        def __init__(self, _: object, config: dict[str, Any], name: str, *_others: object) -> None:
            self._folder = Path(config["folder"])
            names.append(name)

        def fit(self) -> None:
            fit(self._folder)

    monkeypatch.setattr(train_group, "_trainer", Trainer)
    return names


def lost(*_: object) -> None:
    raise WorkerGroupError("planted", {})


def test_a_cause_of_before_a_preemption_does_not_hide_that_of_the_workers_started_after_it(tmp_path, monkeypatch):
    def fit(folder: Path) -> None:
        leave_cause(folder / "start-1", OLD)
        leave_cause(folder / "start-2", NEW)
        lost()

    planted(monkeypatch, fit)
    reports = train_group.train_group(a_group_task(tmp_path, "x", max_failures=0), 0, train_together)
    assert {report.cause for report in reports} == {NEW.words}


def test_workers_that_are_lost_before_any_run_began_are_started_max_failures_times_more(tmp_path, monkeypatch):
    names = planted(monkeypatch, lost)
    reports = train_group.train_group(a_group_task(tmp_path, "x", members=50, max_failures=2), 4, train_together)
    assert [name.rpartition("-")[2] for name in names] == ["a4.0", "a4.1", "a4.2"]
    again = planted(monkeypatch, lost)
    train_group.train_group(a_group_task(tmp_path, "x", members=50, max_failures=2), 4, train_together)
    assert len({*names, *again}) == 6, "no name is used twice, in the next launch neither"
    assert [report.status for report in reports] == ["failed"] * 50
    assert all(report.is_final for report in reports)


def test_workers_that_ray_train_could_not_start_after_its_own_attempts_are_not_asked_for_again(tmp_path, monkeypatch):
    def fit(_: Path) -> None:
        raise ControllerError(RuntimeError("no room for 2 workers"))

    names = planted(monkeypatch, fit)
    reports = train_group.train_group(a_group_task(tmp_path, "x"), 0, train_together)
    assert len(names) == 1
    assert {report.cause for report in reports} == {"Ray Train could not start the workers: no room for 2 workers"}


def test_a_worker_leaves_its_cause_and_beats_with_this_start_of_the_workers(tmp_path, monkeypatch):
    class Context:
        get_world_rank = get_local_rank = staticmethod(lambda: 0)
        get_world_size = get_local_world_size = staticmethod(lambda: 2)

    def work(*_: object) -> list[RunReport]:
        raise ValueError("planted")

    monkeypatch.setattr(train_group.ray.train, "get_context", Context)
    monkeypatch.setattr("raystudy.reference.world.join", lambda *_, **__: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(os.environ, "RAYSTUDY_START", "start-7")
    task = json.dumps(vars(a_group_task(tmp_path, "x")))
    with pytest.raises(train_group.RankError):
        train_group.on_worker({"task": task, "folder": str(tmp_path), "work": work})
    assert json.loads((tmp_path / "start-7" / "cause.json").read_text())["words"] == "ValueError: planted"
    assert not (tmp_path / "cause.json").exists()


def test_a_run_that_a_preemption_cut_short_is_counted_on_rank_0_and_in_its_report(tmp_path, monkeypatch):
    """Ray Train starts the workers anew by itself; runs that had ended before are not counted."""
    task = a_group_task(tmp_path, "x", max_failures=0)
    first, second, third = [run.run_id for run in task.specs()]
    noted: list[dict[str, int]] = []

    def fit(folder: Path) -> None:
        for start in ("start-1", "start-2", "start-3"):
            here = folder / start
            noted.append(dict(group_folder.note_start(folder, here, task).preemptions))
            leave_cause(here, OLD)
            if start == "start-1":
                group_folder.leave_report(folder, RunReport(first, "finished"))
        lost()

    planted(monkeypatch, fit)
    told: list[RunReport] = []
    reports = train_group.train_group(task, 0, train_together, tell=told.append)
    assert noted[:3] == [{}, {second: 1}, {second: 2}]
    found = [(report.run_id, report.status, report.num_preemptions) for report in reports[:2]]
    assert found == [(first, "finished", 0), (second, "failed", 2)]
    assert told == reports
    assert third in {report.run_id for report in reports}


def test_a_group_leaves_a_node_whose_disk_is_full_and_gives_up_where_there_is_no_other(tmp_path, monkeypatch):
    full = [Cause("node-full", "no room on this node", 0, node=node, is_unwritable=True) for node in ("a", "b")]
    avoided: list[set[str]] = []

    def fit(folder: Path) -> None:
        leave_cause(folder / "start-1", full[len(avoided) - 1])
        lost()

    planted(monkeypatch, fit)
    real = train_group._trainer
    monkeypatch.setattr(train_group, "_trainer", lambda *given: (avoided.append(set(given[-1])), real(*given))[1])
    clusters = iter([Cluster([Node(4.0)], [Node(4.0)]), Cluster([], [])])
    monkeypatch.setattr(train_group, "cluster_of", lambda *_: next(clusters))
    reports = train_group.train_group(a_group_task(tmp_path, "x"), 0, train_together)
    assert avoided == [set(), {"a"}]
    assert all(report.is_unwritable and report.cause == "no room on this node" for report in reports)


def test_a_group_moves_on_from_full_nodes_only_so_often_where_the_cluster_grows_ever_new_ones(tmp_path, monkeypatch):
    def fit(folder: Path) -> None:
        leave_cause(folder / "start-1", Cause("node-full", "no room", 0, node=f"node {len(names)}", is_unwritable=True))
        lost()

    names = planted(monkeypatch, fit)
    monkeypatch.setattr(train_group, "MAX_PREEMPTIONS", 3)
    grows = Cluster([], [Node(4.0, count=1000)], may_grow=True)
    monkeypatch.setattr(train_group, "cluster_of", lambda *_: grows)
    reports = train_group.train_group(a_group_task(tmp_path, "x"), 0, train_together)
    assert len(names) == 4
    assert all(report.is_unwritable and report.is_final for report in reports)


def test_a_group_that_meets_another_raystudy_on_a_node_ends_at_once_and_with_it_the_launch(tmp_path, monkeypatch):
    error = OtherCodeError("every node must run the driver's raystudy")

    def fit(folder: Path) -> None:
        leave_cause(folder / "start-1", cause_of(error, 0, "", 0, is_out_of_memory=False))
        lost()

    names = planted(monkeypatch, fit)
    reports = train_group.train_group(a_group_task(tmp_path, "x"), 0, train_together)
    assert len(names) == 1
    assert all(report.is_unwritable and report.is_final and report.cause == str(error) for report in reports)
