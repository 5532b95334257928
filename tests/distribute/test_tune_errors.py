"""An error of Tune itself: of no matter once every run is told of, else one message with the way on. Without Ray."""

import json
import os
import queue
from dataclasses import asdict, replace

import pytest

from raystudy.distribute import connection, tune_executor
from raystudy.distribute.ends import Ends
from raystudy.distribute.group_places import Cluster, Node
from raystudy.distribute.lanes import Lanes
from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.distribute.tune_lane import LaneEnd, Told
from raystudy.errors import RaystudyError, SpecError
from raystudy.execute.shapes import shape_of
from raystudy.execute.work import RunReport
from tests.distribute.test_ends import a_task

GONE = FileNotFoundError(2, "No such file or directory")  # of a working folder that was cleaned away


def test_an_error_of_tune_counts_only_while_runs_are_left(tmp_path):
    executor, task = TuneExecutor(None, []), a_task(tmp_path, range(1))
    for is_told in (True, False):
        lanes, ends, events = Lanes([task]), Ends(None, [task]), queue.Queue()
        lanes.allow({shape_of(task): 1})
        lane = lanes.new()
        assert lane is not None
        assert lanes.take(lane, "trial") is task
        if is_told:
            reports = json.dumps([asdict(RunReport(task.task_id, "finished"))])
            events.put(Told(lane, task.task_id, reports, "node", False))
            assert [report.status for report in executor._next(lanes, events, ends)] == ["finished"]
        events.put(LaneEnd(lane, GONE))
        if is_told:
            assert list(executor._next(lanes, events, ends)) == []
            assert lanes.is_done
        else:
            with pytest.raises(RaystudyError, match=r"FileNotFoundError.*the same command again"):
                list(executor._next(lanes, events, ends))


def test_a_shape_that_no_node_can_hold_ends_the_launch_once_nothing_else_is_left(tmp_path, monkeypatch):
    """Its half-hour has passed while others went on."""
    large, small = (replace(a_task(tmp_path, range(n)), cpus=cpus) for n, cpus in ((1, 4.0), (2, 1.0)))
    both, rest, executor = Lanes([large, small]), Lanes([large]), TuneExecutor(None, [])
    now = [0.0]
    monkeypatch.setattr(tune_executor.time, "monotonic", lambda: now[0])
    executor._cluster = Cluster([Node(2.0)], [Node(2.0)])
    for now[0] in (0.0, 1000.0, 4000.0):
        executor._check_patience(both)
    executor._cluster = Cluster([], [])
    executor._check_patience(both)  # that of the other has just begun
    with pytest.raises(SpecError, match="needs 4 CPU on one node, but it has 0 CPU"):
        executor._check_patience(rest)
    executor._cluster = Cluster([Node(4.0)], [Node(4.0)])
    executor._check_patience(rest)
    executor._cluster = Cluster([], [])
    executor._check_patience(rest)


def test_a_launch_whose_working_folder_is_gone_stands_elsewhere(tmp_path, monkeypatch):
    executor = TuneExecutor(None, [])
    executor._scratch = str(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    executor._stand_somewhere()
    assert os.getcwd() == str(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    executor._stand_somewhere()
    assert os.getcwd() == str(tmp_path)


def test_what_ray_prints_of_the_dead_is_left_to_us_and_all_else_is_shown(monkeypatch):
    from ray._private import worker

    shown: list[str] = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, *_: shown.append(data["lines"][0]))
    connection._leave_deaths_to_us()
    death = "An unexpected internal error occurred while the worker was executing a task."
    lines = [("raylet", f"Traceback ...\n{death}"), ("raylet", "A node has little memory"), ("7", death)]
    for pid, line in lines:
        worker.print_to_stdstream({"pid": pid, "lines": [line]}, None)
    assert shown == ["A node has little memory", death]
