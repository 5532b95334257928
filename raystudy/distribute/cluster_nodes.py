"""What the nodes of a Ray cluster hold: those that are there and, where an autoscaler runs, those it may start."""

import sys
from collections.abc import Collection, Sequence
from typing import Any

from raystudy.distribute.group_places import Cluster, Node
from raystudy.execute.utilisation import Devices

NODE_LABEL = "ray.io/node-id"  # a label that Ray gives each node


def present_nodes(ray: Any, without: Collection[str] = ()) -> list[Node]:
    """The nodes that are alive, less those of these ids."""
    return [
        Node(node.get("Resources", {}).get("CPU", 0.0), node.get("Resources", {}).get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"] and node.get("NodeID") not in without
    ]


def cluster_of(ray: Any, without: Collection[str] = ()) -> Cluster:
    """The nodes that are there and those that the cluster may come to have, less those of these ids."""
    present = present_nodes(ray, without)
    possible, may_grow = possible_nodes(ray)
    return Cluster(present, possible if may_grow else present, may_grow)


def devices_of(cluster: Cluster) -> Devices:
    """What the nodes that are there hold together."""
    return Devices(*_total(cluster.present))


def possible_nodes(ray: Any) -> tuple[list[Node], bool]:
    """The nodes that the cluster may come to have, and whether it may grow at all.

    An autoscaler tells the cluster which types of nodes it may start and at most how many of each. That counts where
    it names more than is there; without an autoscaler the nodes that are there are all.
    """
    there = present_nodes(ray)
    try:
        from ray._private.state import state

        config = state.get_cluster_config()
        types: Sequence[Any] = config.node_group_configs if config is not None else ()
        grown = [_node_type(group) for group in types]
    except (ImportError, AttributeError):  # private to Ray, which has no public way to ask
        return there, False
    grows = _total(grown)[0] > _total(there)[0] or _total(grown)[1] > _total(there)[1]
    return (grown, True) if grows else (there, False)


def _total(nodes: Sequence[Node]) -> tuple[float, float]:
    return sum(node.cpus * node.count for node in nodes), sum(node.gpus * node.count for node in nodes)


def _node_type(group: Any) -> Node:
    """-1 stands for no limit."""
    holds = {name: float(group.resources.get(name, 0)) for name in ("CPU", "GPU")}
    cpus, gpus = (value if value >= 0 else float(sys.maxsize) for value in (holds["CPU"], holds["GPU"]))
    return Node(cpus, gpus, group.max_count if group.max_count >= 0 else sys.maxsize)
