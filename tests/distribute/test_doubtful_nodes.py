"""Workers that die one after another on a node that lives: work goes elsewhere, if that holds as much."""

import logging
from typing import Any

import pytest

from raystudy.distribute.doubtful_nodes import DoubtfulNodes

pytestmark = pytest.mark.timeout(30)


def a_node(name: str, cpus: float = 2.0, gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus}
    return {"NodeID": name, "Alive": alive, "NodeManagerAddress": f"host-{name}", "Resources": resources}


TWO = [a_node("a"), a_node("b")]


def test_two_deaths_in_a_row_turn_work_away_once_and_one_report_brings_it_back(caplog):
    nodes = DoubtfulNodes()
    nodes.died("x", "a")
    assert nodes.among(TWO, ()) == set()
    nodes.told("a")
    nodes.died("x", "a")
    assert nodes.among(TWO, ()) == set(), "it made something in between"
    nodes.died("y", "a")
    with caplog.at_level(logging.WARNING):
        assert nodes.among(TWO, ()) == nodes.among(TWO, ()) == {"a"}
    assert len(caplog.messages) == 1
    assert "the node host-a, which lives: see its disk" in caplog.messages[0]
    nodes.told("a")
    assert nodes.among(TWO, ()) == set()


def test_a_task_that_dies_on_two_nodes_is_to_blame_itself():
    nodes = DoubtfulNodes()
    for name in ("a", "a", "b"):
        nodes.died("x", name)
    assert nodes.among(TWO, ()) == set()
    nodes.died("x", "b")
    nodes.died("y", "")
    nodes.died("y", "b")
    assert nodes.among(TWO, ()) == set()
    nodes.died("y", "b")
    assert nodes.among(TWO, ()) == {"b"}


@pytest.mark.parametrize(
    "others", [[], [a_node("b", 1.0)], [a_node("b", alive=False)], [a_node("b", 64.0)]], ids=lambda found: len(found)
)
def test_nothing_is_kept_from_its_only_place(others):
    nodes, doubtful = DoubtfulNodes(), a_node("a", 2.0, 1.0)
    nodes.died("x", "a")
    nodes.died("y", "a")
    assert nodes.among([doubtful, *others], ()) == set()
    assert nodes.among([doubtful, a_node("c", 2.0, 1.0)], ("c",)) == set()
    assert nodes.among([doubtful, a_node("c", 2.0, 1.0)], ()) == {"a"}
