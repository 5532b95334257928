"""Places for groups of workers on a cluster: how many groups fit at once, and which requests can never be met.

Pure: knows nodes by what they hold, nothing of Ray.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raystudy.errors import SpecError
from raystudy.execute.shapes import Shape
from raystudy.execute.work import Task

# What the trial asks for that starts the workers of a group and waits for them.
TRIAL_CPUS = 0.01
_MOST_GROUPS = 200  # at once
_MOST_TO_GROW = 16  # groups asked for at once beyond those that fit on the nodes that are there
_ROUNDING = 1e-6  # Ray counts resources in ten-thousandths


@dataclass(frozen=True)
class Node:
    """What one node holds, used or not; `count`: of how many such nodes a cluster consists, or may at most."""

    cpus: float
    gpus: float = 0.0
    count: float = 1


def num_groups(shape: Shape, nodes: Sequence[Node]) -> int:
    """Groups that surely fit at once, each with the trial that starts it, wherever Ray places these trials.

    A worker fits on one node or not at all, so each node counts for whole workers. A trial takes TRIAL_CPUS of a node
    of Ray's choice, which may cost a worker its place there; every choice must leave room, or trials could wait for
    workers that their own trials keep out.
    """
    held = [(_workers_on(node, shape), node) for node in nodes]
    total = sum(workers * node.count for workers, node in held)
    spare = sorted(_trials_beside(node, workers, shape) for workers, node in held if workers for _ in _each(node))
    groups = int(min(total // shape.workers, _MOST_GROUPS))
    while groups and total - _places_lost(groups, spare) < groups * shape.workers:
        groups -= 1
    return groups


def num_at_once(shape: Shape, present: Sequence[Node], possible: Sequence[Node]) -> int:
    """Groups to start at once, at least one: what fits on the nodes that are there, and some that make it grow."""
    return max(1, min(num_groups(shape, possible), num_groups(shape, present) + _MOST_TO_GROW))


def check_fits(shape: Shape, task: Task, nodes: Sequence[Node], *, may_grow: bool = False) -> None:
    """See that the cluster can ever hold one group of this shape.

    Raises:
        SpecError: it cannot; with the sum and what to change.
    """
    if num_groups(shape, nodes):
        return
    asked = [f"{shape.workers} workers x {shape.cpus_per_worker:g} CPU = {shape.workers * shape.cpus_per_worker:g} CPU"]
    has = [f"{sum(node.cpus * node.count for node in nodes):g} CPU"]
    if shape.gpus:
        asked.append(f"{shape.workers} x {shape.gpus_per_worker} GPU = {shape.gpus} GPU")
        has.append(f"{sum(node.gpus * node.count for node in nodes):g} GPU")
    places = sum(_workers_on(node, shape) * node.count for node in nodes)
    raise SpecError(
        f"the cluster must be able to hold the workers of model {task.model!r}, which needs {' and '.join(asked)} (and "
        f"{TRIAL_CPUS:g} CPU to start them), but it {'grows to at most' if may_grow else 'has'} {' and '.join(has)}: "
        f"room for {places:g} such workers, as each must fit on one node. Lower engine.workers or "
        f"engine.cpus_per_worker of the model, or go to a larger cluster"
    )


def _workers_on(node: Node, shape: Shape) -> int:
    """Workers that one such node holds."""
    limits = [math.floor(node.cpus / shape.cpus_per_worker + _ROUNDING)]
    if shape.gpus:
        limits.append(math.floor(node.gpus / shape.gpus_per_worker + _ROUNDING))
    return max(0, min(limits))


def _each(node: Node) -> range:
    return range(int(min(node.count, _MOST_GROUPS)))


def _trials_beside(node: Node, workers: int, shape: Shape) -> int:
    """Trials that find room on a node beside all workers that it holds."""
    return math.floor((node.cpus - workers * shape.cpus_per_worker) / TRIAL_CPUS + _ROUNDING)


def _places_lost(trials: int, spare: Sequence[int]) -> int:
    """Places of workers that so many trials cost at most; `spare`, rising: trials that each node holds for nothing."""
    lost = 0
    for room in spare:
        trials -= room + 1
        if trials < 0:
            break
        lost += 1
    return lost
