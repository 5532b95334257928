"""From what Ray Train says of a group that did not end well to its first cause, as a group without Ray has it.

Ranks leave their own words (execute/first_cause.py); Ray says which processes have gone. Knows Ray's errors by their
names and by how their text is laid out, so that nothing of Ray is loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

from raystudy.execute.first_cause import Cause, cause_of

_DEATHS = ("RayActorError", "WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError")
_EXIT_DETAIL = "Worker exit detail:"
_GUESSES = ("Some common causes include", "There are some potential root causes")  # Ray's, after what it knows
_LONGEST = 300


class RankError(Exception):
    """A rank's cause as JSON, since Ray hands on exceptions pickled."""

    @classmethod
    def of(cls, cause: Cause) -> "RankError":
        """The error that carries `cause`."""
        return cls(json.dumps(asdict(cause)))

    @property
    def cause(self) -> Cause:
        """The cause that it carries."""
        return Cause(**json.loads(str(self)))


def group_cause(told: Cause | None, errors: Mapping[int, BaseException], size: int) -> Cause:
    """Why a group of `size` workers ended.

    A process that was killed without a word comes before what others say, who may name its loss in words not known
    here; then what a rank said, then what is only a consequence.

    Args:
        told: what a rank left as the first cause of all, if any did.
        errors: by rank what Ray Train found.
        size: workers of the group.
    """
    said = {rank: _cause_said(rank, error) for rank, error in errors.items() if not is_death(error)}
    firsts = [told] if told is not None else [cause for _, cause in sorted(said.items())]
    known = next((cause for cause in firsts if cause.kind != "consequence"), None)
    dead = [rank for rank, error in sorted(errors.items()) if is_death(error) and (told is None or told.rank != rank)]
    if dead and (known is None or known.kind == "program"):
        return Cause("died", f"worker {dead[0]} of {size} died: {_words_of_death(errors[dead[0]])}", dead[0])
    if known is not None:
        return known
    if firsts:
        return Cause("died", f"worker {firsts[0].rank} of {size} lost the others: {firsts[0].words}", firsts[0].rank)
    return Cause("died", "the workers ended without a report")


def is_death(error: BaseException) -> bool:
    """Whether a worker's process ended, or no longer answers, as Ray tells it."""
    return any(kind.__name__ in _DEATHS for kind in type(error).__mro__)


def _cause_said(rank: int, error: BaseException) -> Cause:
    if isinstance(error, RankError):
        return error.cause
    return cause_of(error, rank, "", 0, is_out_of_memory=False)


def _words_of_death(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if _EXIT_DETAIL in text:
        text = text.partition(_EXIT_DETAIL)[2].strip()
    for guess in _GUESSES:
        text = text.partition(guess)[0].strip()
    return text[:_LONGEST] or "Ray does not say why"
