"""Executors without Ray: worker processes of one thread each, or the driver itself.

An executor takes tasks and yields a report for each of their runs, in any order. A worker that dies costs its
task a failure, which the loop tries again; the others go on.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import IO, Protocol, Self

from raystudy.execute.gpus import gpu_places, visible_gpus
from raystudy.execute.shapes import Shape, by_shape, groups_at_once, shape_of_engine
from raystudy.execute.threads import thread_settings
from raystudy.execute.utilisation import Devices
from raystudy.execute.work import RunReport, Task, failed_reports, reports_of
from raystudy.specs.engines import DeepSpeedEngine

WORKER = (sys.executable, "-m", "raystudy.execute.worker")


class Executor(Protocol):
    """Makes runs; a context manager that frees its workers."""

    def group_places(self, engine: DeepSpeedEngine) -> int:
        """How many groups of workers of `engine` can be at work at once."""
        ...

    @property
    def devices(self) -> Devices:
        """What runs may take now."""
        ...

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """Make all tasks; one report for each of their runs."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InlineExecutor:
    """Makes tasks one after another inside the driver (`--workers 0`)."""

    _reports: Generator[RunReport, None, None] | None = None

    def group_places(self, engine: DeepSpeedEngine) -> int:  # noqa: ARG002 (whatever they are)
        """How many groups can be at work at once."""
        return 1

    @property
    def devices(self) -> Devices:
        """One core, and a GPU where any is seen."""
        return Devices(1.0, 1.0)

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """Make all tasks, in order."""
        for _, alike in by_shape(tasks):
            for task in alike:
                self._reports = reports_of(task)
                yield from self._reports

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reports is not None:
            self._reports.close()  # a group ends here, and not when somebody comes to drop the error


class _Worker:
    """`gpus`: those it sees, as CUDA_VISIBLE_DEVICES names them; None: whatever its driver sees."""

    def __init__(self, gpus: str | None = None) -> None:
        self.gpus = gpus
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        environment = {**os.environ, **thread_settings(1)}
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        self.process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches the driver, which ends its workers
        )
        self._task: Task | None = None
        self._told: set[str] = set()  # runs of the task that are reported
        self._since = 0.0  # when the task was given, or its last report came
        self._text = b""  # a line that is not whole yet

    def give(self, task: Task) -> None:
        self._task, self._told, self._since = task, set(), time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is seen when its report is read
            self.process.stdin.write((json.dumps(asdict(task)) + "\n").encode())
            self.process.stdin.flush()

    def take(self) -> tuple[list[RunReport], bool]:
        """What has come since the last time, when something has; whether the task has ended."""
        assert self.process.stdout is not None
        assert self._task is not None
        text = os.read(self.process.stdout.fileno(), 2**16)
        if not text:
            left, seconds = self._task.without(self._told), time.monotonic() - self._since
            return (failed_reports(left, self._death(), seconds) if left.runs else []), True
        *lines, self._text = (self._text + text).split(b"\n")
        values = [json.loads(line) for line in lines]
        reports = [RunReport(**value) for value in values if value is not None]
        if reports:
            self._since = time.monotonic()
            self._told |= {report.run_id for report in reports}
        return reports, None in values

    def _death(self) -> str:
        status = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return f"the worker process died ({ended})" + (f": {last[0]}" if last else "")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class LocalExecutor:
    """`num_workers` processes on this machine (None: one per core); started when needed, kept between waves.

    A group of workers takes as many of these places as it has workers; its ranks are started by one process. Tasks of
    one resource shape are made before the next. `gpus`: those that runs and groups may have; each process sees its own,
    and where runs ask for GPUs there are no more processes than the GPUs hold. Without it sees what the driver sees.
    """

    def __init__(self, num_workers: int | None, gpus: Sequence[str] = ()) -> None:
        self._num_workers, self._gpus = num_workers, list(gpus)
        self._asked = num_workers or num_cores()
        self._free: list[str | None] = []
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._shape: Shape | None = None

    def group_places(self, engine: DeepSpeedEngine) -> int:
        """How many groups of `engine` fit at once; at least one."""
        return groups_at_once(shape_of_engine(engine), self._asked, len(self._gpus))

    @property
    def devices(self) -> Devices:
        """A core for each worker, and the GPUs."""
        return Devices(float(self._asked), float(len(self._gpus)))

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """Make all tasks, as many at once as there are places."""
        for shape, alike in by_shape(tasks):
            if shape != self._shape:
                self._stop()
                self._shape, self._free = shape, self._places_for(shape)
            yield from self._run_alike(alike)

    def _places_for(self, shape: Shape) -> list[str | None]:
        """The GPUs that each process sees which makes tasks of this shape."""
        if not shape.workers:
            return self._places_of_one(shape)
        count, gpus = groups_at_once(shape, self._asked, len(self._gpus)), int(shape.gpus)
        if not gpus:
            return [None] * count
        return [",".join(self._gpus[place * gpus :][:gpus]) for place in range(count)]

    def _places_of_one(self, shape: Shape) -> list[str | None]:
        places = gpu_places(self._gpus, shape.gpus) if shape.gpus else [None] * (self._num_workers or num_cores())
        return [*places[: self._num_workers]][::-1]

    def _run_alike(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        waiting = list(reversed(tasks))
        with selectors.DefaultSelector() as selector:
            while waiting or self._busy:
                while waiting and (self._idle or self._free):
                    worker = self._idle.pop() if self._idle else _Worker(self._free.pop())
                    worker.give(waiting.pop())
                    self._busy.append(worker)
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
                for key, _ in selector.select():
                    reports, has_ended = key.data.take()
                    if has_ended:
                        selector.unregister(key.fileobj)
                        self._collect(key.data)
                    yield from reports

    def _collect(self, worker: _Worker) -> None:
        """A worker's task has ended."""
        self._busy.remove(worker)
        if worker.process.poll() is None:
            self._idle.append(worker)
        else:
            worker.stop()
            self._free.append(worker.gpus)

    def _stop(self) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()
        self._idle, self._busy, self._shape = [], [], None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


def local_executor(num_workers: int | None, *, needs_gpus: bool = False, by_torch: bool = True) -> Executor:
    """The executor of `--local`: one worker per core, or as many as the GPUs hold; 0 is the driver itself.

    `by_torch`: the GPUs are those that torch finds (`visible_gpus`).
    """
    if num_workers == 0:
        return InlineExecutor()
    return LocalExecutor(num_workers, visible_gpus(by_torch=by_torch) if needs_gpus else [])


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
