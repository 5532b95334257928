"""The resource shape of a task: one process, or a group of workers that train its runs together.

Tasks of the largest shape come first, so that a large one never waits for places that small ones keep taking.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raystudy.execute.work import Task
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.study import speeds


@dataclass(frozen=True, order=True)
class Shape:
    """What one task holds while it runs: `workers` of a group, each with so many GPUs and CPUs; 0 for one process."""

    workers: int = 0
    gpus_per_worker: float = 0
    cpus_per_worker: float = 0.0

    @property
    def gpus(self) -> float:
        """GPUs of all workers."""
        return max(self.workers, 1) * self.gpus_per_worker

    @property
    def cpus(self) -> float:
        """CPUs of all workers."""
        return max(self.workers, 1) * self.cpus_per_worker


def engine_of(task: Task) -> DeepSpeedEngine | None:
    """The engine of a group's task; None for a task of one process."""
    return DeepSpeedEngine.model_validate_json(task.group) if task.group else None


def shape_of(task: Task) -> Shape:
    """The task's resource shape."""
    engine = engine_of(task)
    return Shape(0, task.gpus, task.cpus) if engine is None else shape_of_engine(engine)


def shape_of_engine(engine: DeepSpeedEngine) -> Shape:
    """The resource shape of the engine's tasks."""
    return Shape(engine.workers, engine.gpus_per_worker, engine.cpus_per_worker)


def by_shape(tasks: Sequence[Task]) -> list[tuple[Shape, list[Task]]]:
    """The tasks of each shape in their order, the largest shape first; tasks of one process last."""
    alike: dict[Shape, list[Task]] = {}
    for task in tasks:
        alike.setdefault(shape_of(task), []).append(task)
    return sorted(alike.items(), key=lambda item: item[0], reverse=True)


def groups_at_once(shape: Shape, num_places: int, num_gpus: int) -> int:
    """How many groups of `shape` fit at once into `num_places` of one process each and `num_gpus`; at least one."""
    return speeds.groups_at_once(shape.workers, int(shape.gpus), num_places, num_gpus)
