"""Of the errors of a group's ranks the one that a person needs to see: the first cause, in one line.

When one worker ends, the others' collectives break too; their errors are consequences. Knows nothing of Ray but how
the text of its errors is laid out.
"""

from collections.abc import Mapping

from raystudy.errors import RaystudyError

# Words of gloo, NCCL and torch's store where a peer has gone.
_CONSEQUENCES = (
    "connection reset by peer",
    "connection closed by peer",
    "connection was likely closed",
    "connection refused",
    "broken pipe",
    "socket closed",
    "application timeout caused pair closure",
    "ncclremoteerror",
    "remote process exited",
    "nccl communicator was aborted",
    "process group has been aborted",
)
_LONGEST = 300


def is_consequence(error: BaseException) -> bool:
    """Whether an error only says that another worker has gone."""
    text = str(error).lower()
    return not isinstance(error, RaystudyError) and any(words in text for words in _CONSEQUENCES)


def is_death(error: BaseException) -> bool:
    """Whether a worker's process ended, or no longer answers, as Ray tells it."""
    return type(error).__name__ in ("WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError") or any(
        base.__name__ == "RayActorError" for base in type(error).__mro__
    )


def own_errors(errors: Mapping[int, BaseException]) -> dict[int, BaseException]:
    """By rank the errors that the work itself raised, which would come again if it were tried again.

    None where a worker died too: what the others say then is more likely a consequence in words not known here.
    """
    if any(is_death(error) for error in errors.values()):
        return {}
    return {rank: error for rank, error in errors.items() if not is_consequence(error)}


def first_cause(errors: Mapping[int, BaseException], workers: int) -> str:
    """One line: which worker died, else what the work raised, else what broke in consequence."""
    dead = {rank: error for rank, error in errors.items() if is_death(error)}
    for chosen in (dead, own_errors(errors), dict(errors)):
        if chosen:
            rank = min(chosen)
            where = f"worker {rank} of {workers}" if workers > 1 else "the worker"
            return f"{where} {'died' if chosen is dead else 'failed'}: {_words(chosen[rank])}"
    return "the workers ended without a word"


def _words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    details = [line.partition("Worker exit detail:")[2].strip() for line in lines if "Worker exit detail:" in line]
    if is_death(error) and (details or lines):
        return (details or lines)[0][:_LONGEST]
    text = " ".join(lines)[:_LONGEST]
    if isinstance(error, RaystudyError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
