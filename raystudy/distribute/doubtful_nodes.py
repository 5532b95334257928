"""Nodes that live and on which worker after worker dies: a full disk on which none can start, memory that others took.

Work goes to other nodes then, so that a run's tries are not all spent on one that kills its workers. A task that dies
on another node too is to blame itself, and casts no doubt on either.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_MOST_DEATHS = 2  # in a row, with no task told of in between
_KINDS = ("CPU", "GPU")
_log = logging.getLogger("raystudy.cluster")


class DoubtfulNodes:
    """What a launch has seen of the nodes' workers."""

    def __init__(self) -> None:
        self._deaths: defaultdict[str, list[str]] = defaultdict(list)  # of tasks, by node, since one was told of there
        self._places: defaultdict[str, set[str]] = defaultdict(set)  # nodes on which a task died
        self._said: set[str] = set()

    def died(self, task_id: str, node: str) -> None:
        """A worker of this task died on a node (empty: not known)."""
        if not node:
            return
        self._places[task_id].add(node)
        if len(self._places[task_id]) == 1:
            self._deaths[node].append(task_id)
            return
        for tasks in self._deaths.values():
            tasks[:] = [each for each in tasks if each != task_id]

    def told(self, node: str) -> None:
        """A task was told of by a worker there."""
        self._deaths.pop(node, None)

    def among(self, nodes: Sequence[Mapping[str, Any]], avoided: Collection[str]) -> set[str]:
        """Those of the `nodes` (as `ray.nodes` gives them) to place nothing on; `avoided`: others of that kind.

        Only where another node that is left holds as much, so that nothing is kept from its only place.
        """
        left = {str(node.get("NodeID")): node for node in nodes if node["Alive"] and node.get("NodeID") not in avoided}
        doubtful = {name for name in left if len(self._deaths.get(name, ())) >= _MOST_DEATHS}
        sound = [node for name, node in left.items() if name not in doubtful]
        found = {name for name in doubtful if any(_holds_as_much(other, left[name]) for other in sound)}
        for name in found - self._said:
            self._said.add(name)
            _log.warning(
                "workers die one after another on the node %s, which lives: see its disk and its memory. Work goes to "
                "other nodes",
                left[name].get("NodeManagerAddress", name),
            )
        return found


def _holds_as_much(node: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    held, wanted = node.get("Resources", {}), other.get("Resources", {})
    return all(held.get(kind, 0.0) >= wanted.get(kind, 0.0) for kind in _KINDS)
