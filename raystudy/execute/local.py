"""Executors without Ray: worker processes of one thread each, or the driver itself.

An executor takes jobs and yields a report for each, in any order. A worker that dies costs its job a
failure, which the loop tries again; the others go on.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import IO, Protocol, Self

from raystudy.execute.work import Job, JobReport, do_job

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Executor(Protocol):
    """Makes runs; a context manager that frees its workers."""

    def run(self, jobs: Sequence[Job]) -> Iterator[JobReport]:
        """Make all jobs; one report each."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InlineExecutor:
    """Runs jobs one after another inside the driver (`--workers 0`)."""

    def run(self, jobs: Sequence[Job]) -> Iterator[JobReport]:
        """Make all jobs, in order."""
        yield from map(do_job, jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Worker:
    def __init__(self) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raystudy.execute.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
            start_new_session=True,  # a Ctrl-C reaches the driver, which ends its workers
        )
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        self.job = job
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is seen when its report is read
            self.process.stdin.write(json.dumps(asdict(job)) + "\n")
            self.process.stdin.flush()

    def take(self) -> JobReport:
        assert self.process.stdout is not None
        assert self.job is not None
        line = self.process.stdout.readline()
        if line.endswith("\n"):
            return JobReport(**json.loads(line))
        return JobReport(self.job.spec().run_id, "failed", cause=self._death())

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
    """`num_workers` processes on this machine; started when needed, kept between waves."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[JobReport]:
        """Make all jobs, as many at once as there are workers."""
        waiting = list(reversed(jobs))
        with selectors.DefaultSelector() as selector:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.num_workers:
                    worker = self._idle.pop() if self._idle else _Worker()
                    worker.give(waiting.pop())
                    self._busy.append(worker)
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    yield self._collect(key.data)

    def _collect(self, worker: _Worker) -> JobReport:
        report = worker.take()
        self._busy.remove(worker)
        if worker.process.poll() is None:
            self._idle.append(worker)
        else:
            worker.stop()
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()
        self._idle, self._busy = [], []


def local_executor(num_workers: int | None) -> Executor:
    """The executor of `--local`: one worker per core unless told otherwise; 0 is the driver itself."""
    if num_workers == 0:
        return InlineExecutor()
    return LocalExecutor(num_workers or len(os.sched_getaffinity(0)))
