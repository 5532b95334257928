"""Places for tasks on a cluster: how many of one shape fit at once, alone and beside others; what can never be placed.

Ray chooses the nodes, so what is promised here holds wherever it puts anything: a group's trial, which holds next to
nothing while it waits for its workers, is never started unless these surely find room. Pure: knows nodes by what they
hold, nothing of Ray.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from raystudy.errors import SpecError
from raystudy.execute.shapes import Shape

# What the trial asks for that starts the workers of a group and waits for them.
TRIAL_CPUS = 0.01
_MOST_GROUPS = 200  # at once
_MOST_TASKS = 10_000  # of one process, at once
_MOST_TO_GROW = 16  # groups, and tasks beside groups, asked for at once beyond those that fit on the nodes there are
_MOST_ALONE_TO_GROW = 200  # the same of tasks of one process where no groups wait
_LARGEST_NODE = 4096.0  # CPUs that are looked at: of types of nodes that say no limit
_ROUNDING = 1e-6  # Ray counts resources in ten-thousandths


@dataclass(frozen=True)
class Node:
    """What one node holds, used or not; `count`: of how many such nodes a cluster consists, or may at most."""

    cpus: float
    gpus: float = 0.0
    count: float = 1


@dataclass(frozen=True)
class Cluster:
    """The nodes that are there, and those that there may be; the same where it cannot grow."""

    present: Sequence[Node]
    possible: Sequence[Node]
    may_grow: bool = False


def num_groups(shape: Shape, nodes: Sequence[Node]) -> int:
    """Tasks that surely fit at once, groups each with the trial that starts it, wherever Ray places these trials.

    A worker fits on one node or not at all, so each node counts for whole workers. A trial takes TRIAL_CPUS of a node
    of Ray's choice, which may cost a worker its place there; every choice must leave room, or trials could wait for
    workers that their own trials keep out.
    """
    held = [(_workers_on(node, shape), node) for node in nodes]
    total = sum(workers * node.count for workers, node in held)
    if not shape.workers:
        return int(min(total, _MOST_TASKS))
    spare = sorted(_trials_beside(node, workers, shape) for workers, node in held if workers for _ in _each(node))
    groups = int(min(total // shape.workers, _MOST_GROUPS))
    while groups and total - _places_lost(groups, spare) < groups * shape.workers:
        groups -= 1
    return groups


def num_at_once(shape: Shape, cluster: Cluster) -> int:
    """Groups to start at once, at least one: what fits on the nodes that are there, and some that make it grow."""
    return max(1, _grown(num_groups(shape, cluster.possible), num_groups(shape, cluster.present), _MOST_TO_GROW))


def shares(left: Sequence[tuple[Shape, int]], cluster: Cluster) -> dict[Shape, int]:
    """How many tasks of each shape may go on at once, so that all of them find their places wherever Ray puts them.

    Args:
        left: shapes, the largest first, with the number of their tasks that are at work or waiting. The first has what
            it can use; the others what that leaves. One that no node can hold now keeps no other from its places; it
            may ask for one, so that a node comes back where Ray can bring it, but for a group whose trial would take
            room where others have places.
    """
    taken: list[tuple[Shape, int]] = []
    places = {shape: num_groups(shape, cluster.possible) for shape, _ in left}
    asked = {shape: 0 if shape.workers and any(places.values()) else 1 for shape, n in places.items() if not n}
    for shape, number in left:
        if shape in asked:
            continue
        groups = any(other.workers for other, _ in taken)
        to_grow = _MOST_TO_GROW if groups or shape.workers else _MOST_ALONE_TO_GROW
        possible, present = (_room(shape, number, taken, nodes) for nodes in (cluster.possible, cluster.present))
        taken.append((shape, min(number, _grown(possible, present, to_grow))))
    return {**asked, **dict(taken)}


def _grown(possible: int, present: int, most: int) -> int:
    return min(possible, present + most)


def _room(shape: Shape, most: int, taken: Sequence[tuple[Shape, int]], nodes: Sequence[Node]) -> int:
    """At most so many of `shape`, that all `taken` surely fit beside."""
    low, high = 0, min(most, num_groups(shape, nodes))
    while low < high:
        middle = (low + high + 1) // 2
        if _all_fit([*taken, (shape, middle)], nodes):
            low = middle
        else:
            high = middle - 1
    return low


def _all_fit(taken: Sequence[tuple[Shape, int]], nodes: Sequence[Node]) -> bool:
    """Whether each shape has its places however the others lie. Errs on the side of no.

    What others take counts as so many pieces as large as the largest of them; their trials, as if all lay on every
    node.
    """
    groups = [(shape, number) for shape, number in taken if number]
    if len(groups) < 2:
        return True
    trials = TRIAL_CPUS * sum(number for shape, number in groups if shape.workers)
    alike = Counter(nodes)
    kinds = [
        replace(node, cpus=min(node.cpus, _LARGEST_NODE) - trials, count=node.count * times)
        for node, times in alike.items()
    ]
    for place, (shape, number) in enumerate(groups):
        others = [*groups[:place], *groups[place + 1 :]]
        pieces = sum(count * max(other.workers, 1) for other, count in others)
        largest = (max(other.cpus_per_worker for other, _ in others), max(other.gpus_per_worker for other, _ in others))
        total = sum(_workers_on(node, shape) * node.count for node in kinds)
        if total - _most_lost(shape, pieces, largest, kinds) < number * max(shape.workers, 1):
            return False
    return True


def _most_lost(shape: Shape, pieces: int, piece: tuple[float, float], nodes: Sequence[Node]) -> int:
    """Places for workers of `shape` that so many pieces of others cost at most, wherever they lie."""
    steps = [step for node in nodes for step in _steps(shape, pieces, piece, node)]
    lost, left = 0.0, float(pieces)
    for rate, length in sorted(steps, reverse=True):
        lost += rate * min(left, length)
        left -= min(left, length)
    return math.floor(lost + _ROUNDING)


def _steps(shape: Shape, pieces: int, piece: tuple[float, float], node: Node) -> list[tuple[float, float]]:
    """Places lost for each piece, and for how many pieces: the concave hull of what 1, 2, 3... pieces cost a node."""
    places, hull, lost = _workers_on(node, shape), [(0, 0)], 0
    for count in range(1, min(pieces, _MOST_TASKS) + 1):
        if lost == places:
            break
        used = Node(node.cpus - count * piece[0], node.gpus - _whole_gpus(count, piece[1]))
        lost = places - _workers_on(used, shape)
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (count, lost)):
            hull.pop()
        hull.append((count, lost))
    return [(_slope(a, b), (b[0] - a[0]) * node.count) for a, b in pairwise(hull)]


def _slope(a: tuple[int, int], b: tuple[int, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _whole_gpus(pieces: int, share: float) -> float:
    """GPUs that so many pieces on one node keep others from having whole: Ray fills a GPU before it begins the next."""
    return math.ceil(pieces / math.floor(1 / share + _ROUNDING)) if 0 < share < 1 else pieces * share


def check_fits(shape: Shape, model: str, nodes: Sequence[Node], *, may_grow: bool = False) -> None:
    """See that the cluster can ever hold one task of this shape.

    Raises:
        SpecError: it cannot; with the sum and what to change.
    """
    if num_groups(shape, nodes):
        return
    workers, who = max(shape.workers, 1), "workers" if shape.workers else "one run"
    asked = [f"{workers} workers x {shape.cpus_per_worker:g} CPU = {shape.cpus:g} CPU"]
    has = [f"{sum(node.cpus * node.count for node in nodes):g} CPU"]
    if shape.gpus:
        asked.append(f"{workers} x {shape.gpus_per_worker:g} GPU = {shape.gpus:g} GPU")
        has.append(f"{sum(node.gpus * node.count for node in nodes):g} GPU")
    if not shape.workers:
        asked = [f"{shape.cpus:g} CPU", *([f"{shape.gpus:g} GPU"] if shape.gpus else [])]
    places = sum(_workers_on(node, shape) * node.count for node in nodes)
    beside = f" (and {TRIAL_CPUS:g} CPU to start them)" if shape.workers else " on one node"
    way_out = "engine.workers or engine.cpus_per_worker of the model" if shape.workers else "cpus_per_run, gpus_per_run"
    room = f": room for {places:g} such workers, as each must fit on one node" if shape.workers else " in all"
    raise SpecError(
        f"the cluster must be able to hold the {who} of model {model!r}, which needs {' and '.join(asked)}"
        f"{beside}, but it {'grows to at most' if may_grow else 'has'} {' and '.join(has)}"
        f"{room}. Lower {way_out}, or go to a larger cluster"
    )


def _workers_on(node: Node, shape: Shape) -> int:
    """Workers that one such node holds."""
    limits = [math.floor(node.cpus / shape.cpus_per_worker + _ROUNDING)]
    if 0 < shape.gpus_per_worker < 1:  # shares of one GPU never add up over two
        limits.append(math.floor(node.gpus) * math.floor(1 / shape.gpus_per_worker + _ROUNDING))
    elif shape.gpus_per_worker:
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
