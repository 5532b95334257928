"""The tasks of one wave on their way to Tuners: for each shape a queue, and the lanes that take from it.

A lane is what one Tuner gets: tasks of one shape, so many that what Tune keeps of a trial (which is looked through on
every event) stays small. How many tasks of a shape may go on at once is said from outside and may change while lanes
are at work. Called from the Tuners' threads and the driver's; knows nothing of Ray.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from raystudy.execute.shapes import Shape, by_shape
from raystudy.execute.work import Task

_MOST_TRIALS, _TRIALS_PER_PLACE = 200, 20  # of one lane: so many that the start of the next is a small part


class Lane:
    """The tasks of one Tuner. `number`: how many lanes there were before; `tasks`: all it may take, by id."""

    def __init__(self, shape: Shape, number: int, tasks: Sequence[Task]) -> None:
        self.shape, self.number = shape, number
        self.tasks = {task.task_id: task for task in tasks}
        self.waiting = deque(tasks)
        self.has_begun = False  # to take
        self.taken: list[str] = []  # ids
        self.trials: set[str] = set()  # at work, as Tune names them


class Lanes:
    """Queues by shape, the largest first, and what takes from them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._queues = {shape: deque(alike) for shape, alike in by_shape(tasks)}
        self._models = {shape: alike[0].model for shape, alike in by_shape(tasks)}
        self._allowed: Counter[Shape] = Counter()
        self._live: Counter[Shape] = Counter()
        self._open: list[Lane] = []
        self._number = 0
        self._lock = threading.Lock()

    def left(self) -> list[tuple[Shape, int]]:
        """Shapes, the largest first, with how many of their tasks wait or are at work."""
        with self._lock:
            waiting = Counter({shape: len(queue) for shape, queue in self._queues.items()})
            for lane in self._open:
                waiting[lane.shape] += len(lane.waiting)
            counts = [(shape, waiting[shape] + self._live[shape]) for shape in self._queues]
        return [(shape, count) for shape, count in counts if count]

    def model_of(self, shape: Shape) -> str:
        """The model of a task of this shape."""
        return self._models[shape]

    @property
    def is_done(self) -> bool:
        """Whether nothing waits and no lane is open."""
        with self._lock:
            return not self._open and not any(self._queues.values())

    def allow(self, at_once: Mapping[Shape, int]) -> None:
        """From now on so many tasks of each shape may be at work."""
        with self._lock:
            self._allowed = Counter(at_once)

    def new(self) -> Lane | None:
        """A lane to start now: of a shape that may have more at work, waits, and has no lane that still takes.

        None too while the Tuner of the last one is still being set up: two that are at once disturb each other.
        """
        with self._lock:
            if not all(lane.has_begun for lane in self._open):
                return None
            for shape, queue in self._queues.items():
                is_fed = any(lane.shape == shape and lane.waiting for lane in self._open)
                if queue and not is_fed and self._live[shape] < self._allowed[shape]:
                    most = max(_MOST_TRIALS, _TRIALS_PER_PLACE * self._allowed[shape])
                    lane = Lane(shape, self._number, [queue.popleft() for _ in range(min(most, len(queue)))])
                    self._open.append(lane)
                    self._number += 1
                    return lane
            return None

    def take(self, lane: Lane, trial: str) -> Task | None:
        """The next task of a lane for the trial so named; None: not now.

        Raises:
            StopIteration: it has none left.
        """
        with self._lock:
            lane.has_begun = True
            if not lane.waiting:
                raise StopIteration
            if self._live[lane.shape] >= self._allowed[lane.shape]:
                return None
            task = lane.waiting.popleft()
            lane.trials.add(trial)
            lane.taken.append(task.task_id)
            self._live[lane.shape] += 1
            return task

    def give_back(self, lane: Lane, trial: str) -> None:
        """The trial so named has ended."""
        with self._lock:
            if trial in lane.trials:
                lane.trials.remove(trial)
                self._live[lane.shape] -= 1

    def turn_away(self) -> None:
        """Let no lane that is open take more; what waits goes back to be taken by new ones."""
        with self._lock:
            for lane in self._open:
                self._queues[lane.shape].extendleft(reversed(lane.waiting))
                lane.waiting.clear()

    def close(self, lane: Lane) -> list[str]:
        """The lane's Tuner has ended; ids of all tasks that it had begun."""
        with self._lock:
            self._open.remove(lane)
            self._live[lane.shape] -= len(lane.trials)
            lane.trials.clear()
            self._queues[lane.shape].extendleft(reversed(lane.waiting))
            lane.waiting.clear()
            return lane.taken
