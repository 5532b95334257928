"""Telling trackers of a study's runs: all at once, and beside a launch in a process of its own.

A launch never waits for a tracker while runs are made, and at its end a few seconds only. What a tracker was not told
by then is told by the next launch, or by `raystudy track`.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import raystudy
from raystudy.artifacts.storage import Storage
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.groups import PARENT_VARIABLE
from raystudy.execute.mlflow_tracker import MlflowConnection
from raystudy.execute.trackers import tell_new
from raystudy.execute.wandb_tracker import WandbConnection
from raystudy.specs.study import StudySpec
from raystudy.study.results import StudyResults

_EVERY_SECONDS = 60.0  # between two tellings of a launch, or ten times what the last took
_LAST_SECONDS = 20.0  # for the last telling of a launch
_LOOK_SECONDS = 0.1
_LONGEST = 150  # characters of what a tracker says
_SECRET = re.compile(r"://[^/\s@]*@")  # a user and a password in an address that came from the environment


def track(results: StudyResults) -> Iterator[tuple[str, int | RaystudyError]]:
    """Tell each tracker of the study of what is new: its name with how many runs those were, or what went wrong.

    While `hold_telling` holds: of two processes that tell at once each tells some runs twice.
    """
    spec = results.study.track
    name = results.study.name
    if spec is not None and (mlflow := spec.mlflow) is not None:
        yield (
            "MLflow",
            _told("MLflow", lambda: tell_new(results, mlflow, "mlflow", lambda: MlflowConnection(mlflow, name))),
        )
    if spec is not None and (wandb := spec.wandb) is not None:
        place = results.folder.path / "wandb"
        yield (
            "W&B",
            _told("W&B", lambda: tell_new(results, wandb, "wandb", lambda: WandbConnection(wandb, name, place))),
        )


def _told(kind: str, tell: Callable[[], int]) -> int | RaystudyError:
    try:
        return tell()
    except RaystudyError as error:
        return error
    except Exception as error:  # whatever the tracker's own client raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first = _SECRET.sub("://", lines[0])[:_LONGEST]
        return RaystudyError(
            f"{kind} must take what it is told of runs, but: {first}. Nothing is lost: the next launch, or "
            f"`raystudy track`, tells it what it lacks"
        )


class TrackingBeside:
    """Tells a study's trackers, if it has any, beside a launch: every now and then, and at its end. Never raises."""

    def __init__(self, study: StudySpec, storage: Storage, say: Callable[[str], None]) -> None:
        self._is_on, self._say = study.track is not None, say
        self._words = [sys.executable, "-m", "raystudy", "track", study.name, "--storage", str(storage.root)]
        self._folder = storage.study(study.name)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell_on, name="trackers", daemon=True)
        self._has_said = False

    def __enter__(self) -> Self:
        if self._is_on:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_on:
            self._ended.set()
            self._thread.join()
            if kind is None or issubclass(kind, Exception):  # whoever stops a launch does not want to wait
                self._tell(time.monotonic() + _LAST_SECONDS)

    def _tell_on(self) -> None:
        pause = _EVERY_SECONDS
        while not self._ended.wait(pause):
            started = time.monotonic()
            self._tell(None)
            pause = max(_EVERY_SECONDS, 10 * (time.monotonic() - started))

    def _tell(self, deadline: float | None) -> None:
        """Once; until the deadline, or without one until it has ended or the launch has."""
        try:
            if not self._folder.is_there():  # a launch that has just begun
                return
            with tempfile.TemporaryFile() as output:
                process = self._start(output)
                is_done = self._wait(process, deadline)
                output.seek(0)
                told = output.read().decode(errors="replace")
            if is_done and process.returncode != 0:
                self._say_once(_message(told) or f"telling trackers of runs ended with status {process.returncode}")
            elif not is_done and deadline is not None:
                self._say_once(
                    "trackers did not take all runs in time. The next launch, or `raystudy track`, tells the rest"
                )
        except (OSError, StorageError) as error:
            self._say_once(f"trackers cannot be told of runs: {error}")

    def _start(self, output: IO[bytes]) -> "subprocess.Popen[bytes]":
        package = str(Path(raystudy.__file__).resolve().parent.parent)
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        # Its end is seen by the end of its standard input too: it must not outlive the launch that it belongs to.
        environment = {**os.environ, "PYTHONPATH": path, PARENT_VARIABLE: str(os.getpid())}
        return subprocess.Popen(self._words, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def _wait(self, process: "subprocess.Popen[bytes]", deadline: float | None) -> bool:
        """Whether it has ended; one that has not is killed."""
        with process:  # which closes its input
            while process.poll() is None:
                is_late = self._ended.is_set() if deadline is None else time.monotonic() > deadline
                if is_late:
                    process.kill()
                    return False
                time.sleep(_LOOK_SECONDS)
        return True

    def _say_once(self, line: str) -> None:
        if not self._has_said:
            self._has_said = True
            self._say(line)


def _message(output: str) -> str:
    """What the verb has said, in one line."""
    lines = [line for line in output.splitlines() if line.strip()]
    told = [line.removeprefix("raystudy: ") for line in lines if line.startswith("raystudy: ")] or lines[-1:]
    return "; ".join(told)[: 4 * _LONGEST]
