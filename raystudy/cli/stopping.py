"""Ctrl-C and SIGTERM: a verb stops once, within 10 s, says how to go on and prints no traceback.

The first signal interrupts the verb, which frees its workers and the study on its way out; later ones change nothing.
If the way out takes too long, a timer ends the process: results are written whole or not at all, and workers end with
their driver. Knows nothing of verbs.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

LIMIT_SECONDS = 8.0  # for the way out; the promise is 10 s in all


@dataclass
class Stop:
    """The signal that stopped the verb, None so far."""

    signal: int | None = None

    def tell(self, words: Sequence[str]) -> int:
        """Say how to go on; returns the exit status."""
        number = self.signal or signal.SIGINT
        command, name = shlex.join(["raystudy", *words]), signal.Signals(number).name
        line = f"stopped by {name}; finished runs are kept, the same command goes on from them: {command}"
        tell_last(words, line, "warning", signal=name)
        return 128 + number


def tell_last(words: Sequence[str], line: str, level: Literal["warning", "error"], **about: object) -> None:
    """Say on standard error, in the format that progress is told in there, how a verb ended."""
    from raystudy.execute.log_events import event_line, is_json_asked  # not before handlers of signals are there

    event = "error" if level == "error" else "stopped"
    print(event_line(event, level, line, **about) if is_json_asked(words) else f"raystudy: {line}", file=sys.stderr)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into one KeyboardInterrupt; outside the main thread signals are left as they are."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        for later in (signal.SIGINT, signal.SIGTERM):
            signal.signal(later, signal.SIG_IGN)  # kept by the interpreter to its end, unlike a handler
        stop.signal = number
        timer = threading.Timer(LIMIT_SECONDS, _end, [number])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    yield stop
    if stop.signal is None:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int) -> None:
    os.write(2, b"raystudy: stopped at once; finished runs are kept, the same command goes on from them\n")
    os._exit(128 + number)
