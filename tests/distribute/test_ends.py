"""What a trial that died is to its runs: a failure where the worker died, a loss where its node went. Without Ray."""

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

from raystudy.artifacts.storage import Storage
from raystudy.distribute import node_loss
from raystudy.distribute.ends import Ends
from raystudy.distribute.lanes import Lanes
from raystudy.execute.shapes import shape_of
from raystudy.execute.work import Task
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(60)

ACTOR, NODE = "a" * 32, "b" * 56


def a_task(storage: object, seeds: range, **takes: Any) -> Task:
    runs = tuple(a_run("0" * 32, seed=seed).model_dump_json() for seed in seeds)
    return Task(runs, str(storage), {}, **takes)


@pytest.fixture
def ray(monkeypatch) -> SimpleNamespace:
    """A Ray of one node, which `alive` says to be there; of the actor ACTOR it is known that it is on that node."""
    cluster = SimpleNamespace(alive=True)
    cluster.nodes = lambda: [{"NodeID": NODE, "Alive": cluster.alive}]
    monkeypatch.setattr(node_loss, "_node_of", lambda actor: NODE if actor == ACTOR else "")
    return cluster


def died(text: str, actor: str = ACTOR, *, preempted: bool = False) -> RayActorError:
    error = ActorDiedError()
    RayActorError.__init__(error, actor, text, preempted=preempted)
    return error


def test_a_worker_that_dies_on_a_living_node_has_failed_and_one_that_went_with_its_node_has_not(ray):
    crash, gone = died("worker process has died"), died("its node has died", "")
    assert node_loss.died_with_node(ray, crash, 0.0) is None, "its node may be ending too"
    assert node_loss.died_with_node(ray, crash, 3.0) is False
    assert node_loss.died_with_node(ray, gone, 0.0) is True
    assert node_loss.died_with_node(ray, died("", preempted=True), 0.0) is True
    assert node_loss.died_with_node(ray, RuntimeError("x"), 0.0) is False
    silent = ActorUnavailableError("no answer", None)
    silent.actor_id = ACTOR
    assert node_loss.died_with_node(ray, silent, 30.0) is None, "until Ray must have found the node to be dead"
    wrapped = RuntimeError("as Ray Train tells it")
    wrapped.health_check_failure = silent
    ray.alive = False
    assert all(node_loss.died_with_node(ray, each, 0.0) for each in (silent, crash, wrapped))


def text_of(error: BaseException) -> str:
    """As Ray writes it where the actor's state is known."""
    return str(error) + f"\n\tclass_name: f\n\tactor_id: {ACTOR}\n\tpid: 7"


def test_the_text_that_tune_leaves_of_an_error_tells_the_same(ray):
    crash = text_of(died("The actor died unexpectedly before finishing this task."))
    silent = f"The actor {ACTOR} is unavailable: no answer. The task may or may not have been executed."
    assert node_loss.text_tells_loss(ray, crash, 0.0) is None
    assert node_loss.text_tells_loss(ray, crash, 3.0) is False
    assert node_loss.text_tells_loss(ray, silent, 30.0) is None
    assert node_loss.text_tells_loss(ray, silent, 60.0) is False
    own = f"ray::f() (pid=7)\n  File x\nValueError: {crash}\nThe actor died because its node has died."
    assert node_loss.text_tells_loss(ray, own, 0.0) is False
    asked = f"ray::f() (pid=7)\n  File x\nray.exceptions.ActorDiedError: {crash}"
    assert node_loss.text_tells_loss(ray, asked, 0.0) is None
    assert node_loss.text_tells_loss(ray, "", 0.0) is False
    elsewhere = crash.replace(ACTOR, "c" * 32) + "\nThe actor died because its node has died."
    assert node_loss.text_tells_loss(ray, elsewhere, 0.0) is True
    ray.alive = False
    assert all(node_loss.text_tells_loss(ray, text, 0.0) for text in (crash, silent, asked))
    assert node_loss.text_tells_loss(ray, own, 0.0) is False


def test_of_a_lost_task_the_run_that_was_made_is_preempted_and_those_after_it_are_not_begun(ray, tmp_path):
    task = a_task(tmp_path, range(3))
    first, second, third = [run.run_id for run in task.specs()]
    result = {"status": "finished", "spec": task.specs()[0].model_dump(mode="json"), "metrics": []}
    Storage(tmp_path).runs.write_result(first, {**result, "seconds": {"total": 1.0}, "provenance": {}})
    ends, ray.alive = Ends(ray, [task]), False
    ends.died(task.task_id, text_of(died("gone")), 6.0)
    reports = ends.settled()
    assert [(r.run_id, r.status, r.loss, r.seconds) for r in reports] == [
        (first, "finished", "", 1.0),
        (second, "failed", "preempted", 5.0),
        (third, "failed", "not-begun", 0.0),
    ]
    assert not ends.has_deaths


def test_a_death_waits_until_it_is_known_what_it_is_and_costs_no_run_that_was_told_before(ray, tmp_path):
    task = a_task(tmp_path, range(2))
    first, second = [run.run_id for run in task.specs()]
    ends = Ends(ray, [task])
    part = json.dumps([{"run_id": first, "status": "finished", "seconds": 3.0, "tried_seconds": 2.0}])
    assert [report.run_id for report in ends.told(task.task_id, part, is_part=True)] == [first]
    assert ends.told(task.task_id, part, is_part=True) == [], "told once"
    ends.died(task.task_id, text_of(died("worker process has died")), 6.0)
    assert ends.settled() == []
    assert ends.has_deaths
    ends._deaths = [type(death)(**{**vars(death), "met": time.monotonic() - 5.0}) for death in ends._deaths]
    assert [(r.run_id, r.status, r.loss, r.cause, r.seconds) for r in ends.settled()] == [
        (second, "failed", "", "the worker died: worker process has died", 1.0)
    ]
    assert ends.vanished([task.task_id]) == []


def test_lanes_hand_out_what_is_allowed_and_blocks_follow_each_other(tmp_path):
    tasks = [a_task(tmp_path, range(seed, seed + 1)) for seed in range(450)]
    shape, lanes = shape_of(tasks[0]), Lanes(tasks)
    lanes.allow({shape: 2})
    first = lanes.new()
    assert lanes.new() is None, "its Tuner is not set up yet"
    assert [lanes.take(first, name) for name in "ab"] == tasks[:2]
    assert lanes.take(first, "c") is None
    lanes.give_back(first, "a")
    lanes.give_back(first, "a")
    assert lanes.take(first, "c") == tasks[2]
    assert lanes.take(first, "d") is None
    lanes.allow({shape: 500})
    taken = [lanes.take(first, str(number)) for number in range(197)]
    assert taken[-1] == tasks[199]
    with pytest.raises(StopIteration):
        lanes.take(first, "more")
    second = lanes.new()
    assert len(second.waiting) == 250, "twenty a place"
    lanes.take(second, "x")
    lanes.turn_away()
    assert lanes.left() == [(shape, 450 - 1)]
    assert set(lanes.close(first)) == {task.task_id for task in tasks[:200]}
    lanes.close(second)
    assert not lanes.is_done
    third = lanes.new()
    assert lanes.take(third, "y") == tasks[201]
