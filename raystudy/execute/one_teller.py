"""One process at a time tells the trackers of a study: `studies/<name>/telling/`, held as a driver holds its study.

Two launches, of which one waits, a launch and `raystudy track`, or one whose driver was killed would else each read
what was told before the other has written it, and tell a run twice.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from raystudy.artifacts.files import StoragePath
from raystudy.errors import StudyHeldError
from raystudy.execute.driver_lock import REMOTE_TIMING, Timing, hold_study

_PATIENCE_SECONDS = 75.0  # longer than a holder on another machine that is gone keeps its place


@contextmanager
def hold_telling(
    study_folder: StoragePath, say: Callable[[str], None], patience: float = _PATIENCE_SECONDS
) -> Iterator[bool]:
    """Hold the telling of a study; gives whether it is held, which it is not where another goes on telling that long.

    Raises:
        StorageError: the folder can be neither read nor written.
    """
    timing = Timing() if isinstance(study_folder, Path) else REMOTE_TIMING
    deadline = time.monotonic() + patience

    def pause(seconds: float) -> None:
        if time.monotonic() >= deadline:
            raise StudyHeldError("another process tells the trackers of this study")
        time.sleep(seconds)

    with ExitStack() as stack:
        try:
            held = hold_study(study_folder / "telling", wait=True, say=say, timing=replace(timing, pause=pause))
            stack.enter_context(held)
        except StudyHeldError:
            is_held = False
        else:
            is_held = True
        yield is_held
