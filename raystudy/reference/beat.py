"""Where this rank is in its work, and how much it computes at once: told by whoever works. No clock, no files.

A thread that watches reads it, and whoever tells of an error.

A worker that hangs in a collective waits for another one: the one that is behind the others in `position`.
"""

from dataclasses import dataclass

# What a rank does within one step, in order. Of these a step takes as long as the steps before it; what comes `after`
# one (an evaluation, a checkpoint) may take longer.
STEP_PHASES = ("data", "forward", "backward", "update")
PHASES = (*STEP_PHASES, "after")
_START, _END = -1, 2**53


@dataclass(frozen=True, order=True)
class Beat:
    """A place in a rank's work, which is the same on all ranks: of the task's `member`-th run the `step`."""

    member: int = 0
    step: int = _START
    phase: int = 0

    @property
    def is_in_step(self) -> bool:
        """Whether the rank is in the middle of a step of training."""
        return 0 <= self.step < _END and self.phase < len(STEP_PHASES)

    def __str__(self) -> str:
        if self.step == _START:
            return f"at the start of run {self.member + 1}"
        if self.step == _END:
            return f"at the end of run {self.member + 1}"
        return f"in {PHASES[self.phase]} of step {self.step}" if self.is_in_step else f"after step {self.step}"


_now = Beat()
_rows = 0


def now() -> Beat:
    """Where this rank is."""
    return _now


def begin_run(member: int) -> None:
    """The task's run number `member`, from 0, begins: reading, evaluating, building the model."""
    _set(Beat(member))
    compute(0)


def compute(rows: int) -> None:
    """From now on up to `rows` sequences are computed at once; 0: not known yet."""
    global _rows
    _rows = rows


def rows_at_once() -> int:
    """How many sequences of the run are computed at once at most; 0: not known yet."""
    return _rows


def tell(step: int, phase: str) -> None:
    """The training is in `phase` (one of PHASES) of `step`."""
    _set(Beat(_now.member, step, PHASES.index(phase)))


def end_run() -> None:
    """All steps of the run are taken; what is made of it is written."""
    _set(Beat(_now.member, _END))


def _set(beat: Beat) -> None:
    global _now
    _now = beat
