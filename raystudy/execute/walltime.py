"""A walltime, and signals by which a batch system says that it is near: each asks this process to stop in order.

Knows nothing of what the process does; that is asked to stop by train/stop_request.py.
"""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator

from raystudy.errors import SpecError
from raystudy.train import stop_request

MARGIN_SECONDS = 120.0  # before the end of a walltime, for the step in progress, a checkpoint and the way out
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d{1,2}))?(?::(\d{1,2}))?")


def read_walltime(text: str) -> int:
    """Seconds of a time as Slurm writes it: minutes, MM:SS, HH:MM:SS, or days-HH, days-HH:MM, days-HH:MM:SS.

    Raises:
        SpecError: it is none, or no time at all.
    """
    match = _TIME.fullmatch(text)
    seconds = 0
    if match is not None:
        days, first, second, third = (None if part is None else int(part) for part in match.groups())
        if days is not None:
            seconds = days * 86_400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
        elif third is not None:
            seconds = (first or 0) * 3600 + (second or 0) * 60 + third
        else:
            seconds = (first or 0) * 60 + (second or 0)
    if seconds < 1:
        raise SpecError(f"a walltime must be a time as Slurm writes it, HH:MM:SS or minutes, but got {text!r}")
    return seconds


@contextlib.contextmanager
def stopping_in_time(walltime: float | None, margin: float = MARGIN_SECONDS) -> Iterator[None]:
    """Ask for a stop `margin` seconds (at most a half) before `walltime` seconds are over, and at SIGTERM or SIGUSR1.

    Outside the main thread signals are left as they are.
    """
    timer = None
    if walltime is not None:
        spare = min(margin, walltime / 2)
        words = f"stopped {spare:g} s before the walltime of {walltime:g} s ends"
        timer = threading.Timer(walltime - spare, stop_request.request, [words])
        timer.daemon = True
        timer.start()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, _ask) for number in _SIGNALS}
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_request.withdraw()


def _ask(number: int, _frame: object) -> None:
    stop_request.request(f"stopped by {signal.Signals(number).name}")
