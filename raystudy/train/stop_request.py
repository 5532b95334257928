"""A request that this process stop where it can go on later: a walltime that ends, a signal of a batch system.

A training sees it after a step, leaves a checkpoint and raises StoppedError; what has no steps of its own is told by a
callback. Set from a signal's handler or a timer, so it takes no locks. Knows nothing of who asks.
"""

import contextlib
from collections.abc import Callable, Iterator

from raystudy.errors import StoppedError

_reasons: list[str] = []
_callbacks: list[Callable[[], object]] = []


def request(reason: str) -> None:
    """Ask for a stop; the first `reason` is the one that is told."""
    _reasons.append(reason)
    for callback in tuple(_callbacks):
        callback()


def withdraw() -> None:
    """As if nothing had been asked."""
    _reasons.clear()


def is_requested() -> bool:
    """Whether a stop was asked for."""
    return bool(_reasons)


def raise_if_requested() -> None:
    """Raises StoppedError where a stop was asked for."""
    if _reasons:
        raise StoppedError(_reasons[0])


@contextlib.contextmanager
def when_requested(callback: Callable[[], object]) -> Iterator[None]:
    """Call `callback` as soon as a stop is asked for, at once where it was; it must allow being called again."""
    _callbacks.append(callback)
    try:
        if _reasons:
            callback()
        yield
    finally:
        _callbacks.remove(callback)
