"""How a run of a task has ended: what every kind of work gives its worker."""

import datetime
from dataclasses import dataclass

from raystudy.specs.run import Run


@dataclass(frozen=True)
class Made:
    """A run's record's status, or the `error` that came instead.

    `seconds`: what it took now; `is_made`: the run itself was made in them, not only looked up or evaluated.
    """

    run: Run
    status: str
    seconds: float = 0.0
    is_made: bool = False
    error: Exception | None = None


def now() -> str:
    """The wall clock's time as records say it: when a run was started, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
