"""What the nodes of a Ray cluster hold: those that are there and, where an autoscaler runs, those it may start."""

import logging
import os
import re
import sys
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from raystudy.distribute.group_places import Cluster, Node
from raystudy.errors import SpecError
from raystudy.execute.utilisation import Devices

GROWS_TO = "RAYSTUDY_GROWS_TO"
NODE_LABEL = "ray.io/node-id"  # a label that Ray gives each node

_TYPE = re.compile(r"[0-9]{1,6}x[0-9]{1,6}(\.[0-9]+)?(x[0-9]{1,6})?")
_log = logging.getLogger("raystudy.cluster")


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

    Which types of nodes an autoscaler may start, and at most how many of each, is what RAYSTUDY_GROWS_TO says, else
    what the cluster tells, of which the autoscalers in Ray itself tell nothing (2.60: none fills in what is asked for
    here). It counts where it is more than is there; without an autoscaler the nodes that are there are all.

    Raises:
        SpecError: RAYSTUDY_GROWS_TO is not as it must be.
    """
    there = present_nodes(ray)
    grown = _named_nodes(os.environ.get(GROWS_TO, "")) or _told_nodes()
    grows = _total(grown)[0] > _total(there)[0] or _total(grown)[1] > _total(there)[1]
    return (grown, True) if grows else (there, False)


def _named_nodes(words: str) -> list[Node]:
    """The types of nodes in "COUNTxCPUS" or "COUNTxCPUSxGPUS", one or several with commas between."""
    types = [word.strip() for word in words.split(",") if word.strip()]
    for word in types:
        if not _TYPE.fullmatch(word):
            raise SpecError(
                f"{GROWS_TO} must say how many nodes the autoscaler may start and what each holds, as in 8x16 (8 nodes "
                f"of 16 CPUs) or 4x16x1,8x32 (4 of 16 CPUs and a GPU, 8 of 32 CPUs), but got {word!r}"
            )
    held = [[float(part) for part in [*word.split("x"), "0"][:3]] for word in types]
    return [Node(cpus, gpus, count) for count, cpus, gpus in held]


def _told_nodes() -> list[Node]:
    try:
        from ray._private.state import state

        config = state.get_cluster_config()
        types: Sequence[Any] = config.node_group_configs if config is not None else ()
        return [_node_type(group) for group in types]
    except Exception as error:  # private to Ray, which has no public way to ask
        _say_once(f"{type(error).__name__}: {error}")
        return []


@cache
def _say_once(why: str) -> None:
    _log.warning(
        "this Ray does not tell what its autoscaler may start (%s): where one runs, say so by %s=COUNTxCPUSxGPUS, or "
        "only the nodes that are there are used",
        why.splitlines()[0],
        GROWS_TO,
    )


def _total(nodes: Sequence[Node]) -> tuple[float, float]:
    return sum(node.cpus * node.count for node in nodes), sum(node.gpus * node.count for node in nodes)


def _node_type(group: Any) -> Node:
    """-1 stands for no limit."""
    holds = {name: float(group.resources.get(name, 0)) for name in ("CPU", "GPU")}
    cpus, gpus = (value if value >= 0 else float(sys.maxsize) for value in (holds["CPU"], holds["GPU"]))
    return Node(cpus, gpus, group.max_count if group.max_count >= 0 else sys.maxsize)
