"""Where groups of workers fit: how many at once, what is refused with its sum. No Ray."""

import itertools
import re
import sys
from types import SimpleNamespace

import pytest

from raystudy.distribute import cluster_nodes
from raystudy.distribute.group_places import Cluster, Node, check_fits, num_at_once, num_groups, shares
from raystudy.errors import SpecError
from raystudy.execute.shapes import Shape
from tests.conftest import ROOT

TWO_CPUS = [Node(2.0)]


@pytest.mark.parametrize(
    ("shape", "nodes", "groups"),
    [
        (Shape(2, 0, 0.9), TWO_CPUS, 1),
        (Shape(1, 0, 0.9), TWO_CPUS, 2),
        (Shape(4, 0, 0.9), [Node(2.0), Node(2.0)], 1),
        (Shape(2, 0, 3.0), [Node(4.0), Node(4.0)], 1),  # 8 CPUs, but one worker a node
        (Shape(2, 0, 3.0), [Node(6.1)], 1),
        (Shape(2, 0, 3.0), [Node(3.0), Node(2.0), Node(1.0)], 0),  # 6 CPUs, but one worker
        (Shape(2, 1, 0.9), [Node(16.0, 8.0)], 4),  # GPUs are the limit
        (Shape(8, 1, 1.9), [Node(8.0, 8.0)], 0),  # CPUs are
        (Shape(2, 1, 0.9), [Node(8.0), Node(8.0, 1.0)], 0),  # a node without GPUs holds none of these workers
        (Shape(2, 0, 0.9), [Node(2.0, count=3)], 3),
        (Shape(3, 0, 0.1), [Node(0.3)], 0),  # to the last hundredth: no room for the trial that starts them
    ],
)
def test_groups_that_fit_at_once_are_counted_by_node(shape, nodes, groups):
    assert num_groups(shape, nodes) == groups


def test_trials_never_take_the_place_of_the_workers_that_they_wait_for():
    """Whole CPUs leave a trial no room beside them: one node in the worst place must be spared."""
    assert num_groups(Shape(2, 0, 1.0), TWO_CPUS) == 0
    assert num_groups(Shape(2, 0, 1.0), [Node(3.0)]) == 1
    assert num_groups(Shape(2, 0, 1.0), [Node(2.0), Node(1.0)]) == 1
    assert num_groups(Shape(1, 0, 1.0), [Node(1.0)] * 4) == 2  # two trials on two nodes leave two places
    for groups in range(1, 30):
        node = Node(groups * 2 * 0.9 + 0.01 * groups)
        assert num_groups(Shape(2, 0, 0.9), [node]) == groups


def test_a_request_that_can_never_be_met_is_refused_with_the_sum_and_the_way_out():
    with pytest.raises(SpecError) as refused:
        check_fits(Shape(4, 0, 0.9), "m", TWO_CPUS)
    assert "model 'm', which needs 4 workers x 0.9 CPU = 3.6 CPU" in str(refused.value)
    assert "but it has 2 CPU: room for 2 such workers" in str(refused.value)
    assert "Lower engine.workers" in str(refused.value)
    with pytest.raises(SpecError, match=r"2 x 1 GPU = 2 GPU .* but it has 16 CPU and 1 GPU"):
        check_fits(Shape(2, 1, 0.9), "m", [Node(16.0, 1.0)])
    with pytest.raises(SpecError, match="but it grows to at most 3 CPU"):
        check_fits(Shape(4, 0, 0.9), "m", [Node(1.0, count=3)], may_grow=True)
    check_fits(Shape(4, 0, 0.9), "m", [Node(4.0)])
    with pytest.raises(SpecError, match=r"one run of model 'm', which needs 8 CPU and 1 GPU on one node, but"):
        check_fits(Shape(0, 1, 8.0), "m", [Node(4.0, 4.0), Node(16.0)])


def test_a_cluster_that_may_grow_is_asked_for_more_than_is_there_but_not_for_everything_at_once():
    shape = Shape(4, 0, 0.9)
    assert num_at_once(shape, Cluster([Node(1.0)], [Node(4.0, count=3)])) == 3
    assert num_at_once(shape, Cluster([Node(4.0)] * 2, [Node(4.0, count=1000)])) == 18
    assert num_at_once(shape, Cluster([Node(4.0)], [Node(4.0)])) == 1
    assert num_at_once(shape, Cluster([], [])) == 1  # nodes that have gone since the check may come back
    single = Shape(0, 0, 1.0)
    none_yet = Cluster([], [Node(16.0, count=100)], may_grow=True)
    assert shares([(single, 5000)], none_yet) == {single: 200}, "what is asked for at once"
    assert shares([(shape, 50), (single, 5000)], none_yet) == {shape: 16, single: 16}


GROUP, WHOLE, SHARE, SINGLE = Shape(2, 0, 0.9), Shape(0, 1, 0.1), Shape(0, 0.25, 0.1), Shape(0, 0, 1.0)


@pytest.mark.parametrize(
    ("left", "nodes", "at_once"),
    [
        ([(GROUP, 1), (SINGLE, 100)], [Node(8.0)], [1, 6]),  # the last reference run: proxies use the rest
        ([(GROUP, 9), (SINGLE, 100)], [Node(8.0)], [4, 0]),  # while enough of them wait they use all
        ([(GROUP, 1), (SINGLE, 100)], TWO_CPUS, [1, 0]),
        ([(SINGLE, 100)], TWO_CPUS, [2]),
        ([(GROUP, 1), (Shape(0, 0, 0.1), 100)], TWO_CPUS, [1, 1]),
        (
            [(Shape(1, 0, 3.0), 1), (SINGLE, 100)],
            [Node(4.0), Node(4.0)],
            [1, 1],
        ),  # a second might spoil both
        ([(WHOLE, 2), (SHARE, 100)], [Node(2.0, 4.0)], [2, 8]),  # Ray fills a shared GPU before it begins another
        ([(WHOLE, 9), (SHARE, 100)], [Node(2.0, 4.0)], [4, 0]),
        ([(Shape(0, 0.4, 0.1), 100)], [Node(2.0, 4.0)], [8]),  # two on each: shares do not add up over GPUs
    ],
)
def test_smaller_tasks_have_what_larger_ones_surely_leave(left, nodes, at_once):
    assert list(shares(left, Cluster(nodes, nodes)).values()) == at_once


def test_what_may_go_on_beside_groups_never_keeps_them_from_their_places_wherever_it_lies():
    """All ways to lay the pieces on two nodes, tried one by one."""
    for cpus, piece in itertools.product((2.0, 3.5, 6.0), (0.3, 0.7, 1.0, 2.0)):
        single = Shape(0, 0, piece)
        found = shares([(GROUP, 1), (single, 50)], Cluster([Node(cpus)] * 2, [Node(cpus)] * 2))[single]
        for here in range(found + 1):
            pieces = (here, found - here)
            if all(count * piece <= cpus for count in pieces):
                free = [cpus - count * piece - 0.01 for count in pieces]
                assert sum(int(left / 0.9 + 1e-6) for left in free) >= 2 or found == 0, (cpus, piece, pieces)


@pytest.mark.parametrize(
    ("left", "at_once"),
    [
        ([(Shape(0, 1, 1.0), 5), (SINGLE, 50)], {Shape(0, 1, 1.0): 1, SINGLE: 8}),
        ([(Shape(8, 1, 0.9), 5), (GROUP, 9), (SINGLE, 50)], {Shape(8, 1, 0.9): 0, GROUP: 4, SINGLE: 0}),
        ([(Shape(0, 0, 9.0), 5), (Shape(0, 0, 4.0), 1), (SINGLE, 50)], {Shape(0, 0, 9.0): 1, Shape(0, 0, 4.0): 1}),
        ([(Shape(8, 1, 0.9), 5), (Shape(0, 1, 1.0), 50)], {Shape(8, 1, 0.9): 1, Shape(0, 1, 1.0): 1}),
    ],
)
def test_a_shape_that_no_node_can_hold_keeps_no_other_from_its_places(left, at_once):
    """As after the loss of the only node with GPUs."""
    found = shares(left, Cluster([Node(8.0)], [Node(8.0)]))
    assert found.items() >= at_once.items()
    smallest, number = left[-1]
    if at_once.keys() != dict(left).keys():
        assert 0 < found[smallest] < number, "beside the one that fits"


def the_cluster(monkeypatch, *types: tuple[dict[str, int], int]) -> SimpleNamespace:
    """A Ray of one node of two CPUs, and one that is dead, whose autoscaler may start nodes of these types."""
    config = SimpleNamespace(
        node_group_configs=[SimpleNamespace(resources=resources, max_count=count) for resources, count in types]
    )
    state = SimpleNamespace(get_cluster_config=lambda: config)
    monkeypatch.setitem(sys.modules, "ray._private.state", SimpleNamespace(state=state))
    alive, dead = {"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}
    return SimpleNamespace(nodes=lambda: [alive, dead])


def test_without_an_autoscaler_the_nodes_that_are_alive_are_all(monkeypatch):
    assert cluster_nodes.possible_nodes(the_cluster(monkeypatch)) == ([Node(2.0)], False)


def test_with_an_autoscaler_the_nodes_that_it_may_start_count(monkeypatch):
    ray = the_cluster(monkeypatch, ({"CPU": 4}, 3), ({"CPU": 8, "GPU": 2}, 1))
    assert cluster_nodes.possible_nodes(ray) == ([Node(4.0, count=3), Node(8.0, 2.0, count=1)], True)
    nodes, may_grow = cluster_nodes.possible_nodes(the_cluster(monkeypatch, ({"CPU": 4}, -1)))
    assert may_grow
    assert num_groups(Shape(64, 0, 0.9), nodes) > 0
    check_fits(Shape(64, 0, 0.9), "m", nodes)


def test_an_autoscaler_that_may_start_no_more_than_is_there_changes_nothing(monkeypatch):
    assert cluster_nodes.possible_nodes(the_cluster(monkeypatch, ({"CPU": 1}, 2))) == ([Node(2.0)], False)


def test_what_an_autoscaler_may_start_is_said_by_hand_where_ray_does_not_tell_it(monkeypatch):
    ray = the_cluster(monkeypatch, ({"CPU": 4}, 3))
    monkeypatch.setenv(cluster_nodes.GROWS_TO, "3x1, 8x16.5x2")
    assert cluster_nodes.possible_nodes(ray) == ([Node(1.0, count=3), Node(16.5, 2.0, count=8)], True)
    monkeypatch.setenv(cluster_nodes.GROWS_TO, "1x2")
    assert cluster_nodes.possible_nodes(ray) == ([Node(2.0)], False), "no more than is there"
    for wrong in ("8", "8x", "x8", "-1x8", "8x16x1x1", "8 16"):
        monkeypatch.setenv(cluster_nodes.GROWS_TO, wrong)
        with pytest.raises(SpecError, match=r"RAYSTUDY_GROWS_TO must say how many nodes .* but got"):
            cluster_nodes.possible_nodes(ray)


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_template_with_an_autoscaler_says_what_that_may_start(path):
    text = "".join(line for line in path.read_text().splitlines(True) if not line.lstrip().startswith("#"))
    if "enableInTreeAutoscaling: true" in text:
        (count,), cpus = re.findall(r"maxReplicas: (\d+)", text), re.findall(r'requests: \{cpu: "(\d+)"', text)[-1]
    elif "--autoscaling-config" in text:
        count, cpus = re.findall(r"    max_workers: (\d+)", text)[-1], re.findall(r"CPU: (\d+)", text)[-1]
    else:
        assert cluster_nodes.GROWS_TO not in text
        return
    (said,) = re.findall(rf"{cluster_nodes.GROWS_TO}(?:, value: |=)([0-9x.]+)", text)
    assert cluster_nodes._named_nodes(said) == [Node(float(cpus), 1.0, float(count))]


def test_a_ray_that_cannot_be_asked_what_its_autoscaler_may_start_is_said_once(monkeypatch, caplog):
    ray = the_cluster(monkeypatch, ({"CPU": 4}, 3))
    monkeypatch.setitem(sys.modules, "ray._private.state", SimpleNamespace(state=SimpleNamespace()))
    cluster_nodes._say_once.cache_clear()
    for _ in range(2):
        assert cluster_nodes.possible_nodes(ray) == ([Node(2.0)], False)
    (said,) = caplog.messages
    assert "no attribute 'get_cluster_config'" in said
    assert "say so by RAYSTUDY_GROWS_TO=COUNTxCPUSxGPUS" in said
