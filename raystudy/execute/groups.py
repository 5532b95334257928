"""A group's task on this machine without Ray: as many local processes as the engine has workers, and their faults.

Each process is a rank of `python -m raystudy.reference`. They are killed together, and die with whoever started them,
however that ends: their standard input closes, and Linux kills them with their parent. Ranks find one another through
a file, so that nothing listens but gloo, on the loopback device.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, cast

from raystudy.artifacts.processes import is_alive, place_tag
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause, cause_of, first_cause
from raystudy.execute.hang_watch import Watch, has_begun
from raystudy.execute.threads import thread_settings
from raystudy.execute.work import RunReport, Task
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.train import stop_request

FOLDER_VARIABLE = "RAYSTUDY_GROUP_FOLDER"  # where ranks that were started here meet and leave causes and reports
STOP_FILE = "stop"  # in that folder: ranks are to leave a checkpoint after the step they are in, and to end
PARENT_VARIABLE = "RAYSTUDY_GROUP_PARENT"  # the process with which they end
ENTRY = (sys.executable, "-m", "raystudy.reference")
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 1.0  # in which the others show, after the first rank has ended, who was first
_LEAVING_SECONDS = 30.0  # that ranks may take to end after rank 0 has
_PREFIX = "raystudy-group"


def run_group(task: Task, entry: Sequence[str] = ENTRY) -> list[RunReport]:
    """Make every run of a group's task that lacks something; a failure comes back as a report. `entry`: a rank."""
    return list(group_reports(task, entry))


def group_reports(task: Task, entry: Sequence[str] = ENTRY) -> Generator[RunReport, None, None]:
    """The same, each report as soon as its run has ended. To be closed where it is not gone through to its end."""
    remove_group_folders()
    attempts = Attempts(task)
    while (left := attempts.left) is not None:
        started, num_before, begun = time.perf_counter(), len(attempts.reports), False
        try:
            with Group(left, entry) as group:
                cause = yield from _passed_on(group, attempts)
                begun = group.has_begun()
        except OSError as error:  # no room for its folder, no more processes
            cause = cause_of(error, 0, "", 0, is_out_of_memory=False)
        if attempts.left is not None:
            stop_request.raise_if_requested()
        seconds = time.perf_counter() - started
        seconds -= sum(report.seconds for report in attempts.reports[num_before:])
        num_told = len(attempts.reports)
        if attempts.left is not None:
            cause = cause or Cause("died", "the workers ended without a report")
            attempts.failed(cause, max(0.0, seconds), has_begun=begun)
        yield from attempts.reports[num_told:]


def _passed_on(group: "Group", attempts: Attempts) -> Generator[RunReport, None, Cause | None]:
    """What the group reports, as its attempts know it."""
    coming = group.reports()
    while True:
        try:
            report = next(coming)
        except StopIteration as end:
            return cast("Cause | None", end.value)
        num_told = len(attempts.reports)
        attempts.made(report)
        yield from attempts.reports[num_told:]


class Group:
    """The processes of one attempt; a context manager that leaves none of them behind."""

    def __init__(self, task: Task, entry: Sequence[str]) -> None:
        self._task, self._entry = task, entry
        self._engine = DeepSpeedEngine.model_validate_json(task.group)
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []
        self._read = 0

    def __enter__(self) -> "Group":
        self._folder = make_group_folder()
        (self._folder / "task.json").write_text(json.dumps(asdict(self._task)))
        try:
            for rank in range(self._engine.workers):
                self._start(rank)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, rank: int) -> None:
        size = self._engine.workers
        environment = {**os.environ, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{size}"}
        environment |= {"LOCAL_WORLD_SIZE": f"{size}", FOLDER_VARIABLE: str(self._folder)}
        environment |= {PARENT_VARIABLE: f"{os.getpid()}"}
        environment |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        if self._engine.device == "cpu":
            environment |= thread_settings(1)
        log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _stop)
        self._logs.append(log)
        self._ranks.append(
            subprocess.Popen(
                [*self._entry, "--task", str(self._folder / "task.json")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C reaches the driver, which ends its ranks
            )
        )

    def wait(self) -> Cause | None:
        """Until all ranks have ended well (None), or the first cause of that they did not."""
        coming = self.reports()
        while True:
            try:
                next(coming)
            except StopIteration as end:
                return cast("Cause | None", end.value)

    def reports(self) -> Generator[RunReport, None, Cause | None]:
        """What rank 0 reports, as it comes, until all ranks have ended; returns what `wait` does."""
        watch = Watch(self._folder, self._engine.workers, 60 * self._engine.hang_minutes)
        looked = time.monotonic()
        while any(rank.poll() is None for rank in self._ranks):
            time.sleep(_POLL_SECONDS)
            yield from self._take()
            if stop_request.is_requested():
                (self._folder / STOP_FILE).touch()
            if any(rank.poll() for rank in self._ranks):
                break
            if self._ranks[0].poll() == 0:  # all is made; what does not end by itself now is ended
                self._wait_for_others(_LEAVING_SECONDS)
                break
            if time.monotonic() - looked >= watch.interval_seconds:
                looked = time.monotonic()
                hang = watch.look()
                if hang is not None:
                    return first_cause(self._folder) or hang
        if not any(rank.poll() for rank in self._ranks):
            yield from self._take()
            return None
        self._wait_for_others(_GRACE_SECONDS)
        yield from self._take()
        return self._cause()

    def has_begun(self) -> bool:
        """Whether the ranks came as far as a step of some run."""
        return has_begun(self._folder)

    def _wait_for_others(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(rank.poll() is None for rank in self._ranks) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _cause(self) -> Cause:
        """Who was killed from outside comes first, then what a rank said, then how one ended."""
        size = len(self._ranks)
        statuses = {rank: process.poll() for rank, process in enumerate(self._ranks) if process.poll()}
        for rank, status in statuses.items():
            if status == -signal.SIGKILL:
                words = f"worker {rank} of {size} was killed by signal 9, by hand or for want of memory"
                return Cause("died", words, rank)
            if status == -signal.SIGTERM:
                return Cause("preempted", f"worker {rank} of {size} was ended by signal 15 (preempted)", rank)
        told = first_cause(self._folder)
        if told is not None and told.kind != "consequence":
            return told
        for rank, status in statuses.items():
            if status is not None and status < 0:
                return Cause("died", f"worker {rank} of {size} was killed by signal {-status}{self._last(rank)}", rank)
        if told is not None:
            return Cause("died", f"worker {told.rank} of {size} lost the others: {told.words}", told.rank)
        rank, status = next(iter(statuses.items()))
        return Cause("died", f"worker {rank} of {size} ended with exit status {status}{self._last(rank)}", rank)

    def _last(self, rank: int) -> str:
        """The last line that a rank wrote, for a message."""
        log = self._logs[rank]
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""

    def _take(self) -> Iterator[RunReport]:
        """What rank 0 has reported since the last time; a line that is not whole is left for later."""
        try:
            with (self._folder / "reports.jsonl").open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            yield RunReport(**json.loads(line))

    def _stop(self) -> None:
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.wait()
            if rank.stdin is not None:
                rank.stdin.close()
        for log in self._logs:
            log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def make_group_folder() -> Path:
    """A folder of this machine, for a group of workers that this process starts or is one of."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{place_tag()}-{os.getpid()}-"))


def remove_group_folders() -> None:
    """Remove such folders whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-{place_tag()}-*"):
        number = folder.name.split("-")[3]
        if number.isdigit() and not is_alive(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
