"""Why a group of workers did not end well: the first cause that any rank met, and not what followed from it.

When one worker is gone, all others fail in the middle of a collective; what they say of it is no cause. Each rank
leaves its cause in the group's folder by exclusive creation, so that the first wins.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raystudy.artifacts.files import NO_ROOM, StoragePath, json_files, read_json, unwritable, write_json
from raystudy.errors import DamagedError, NodeFullError, OtherCodeError, RaystudyError, UnwritableError

Kind = Literal["died", "preempted", "hang", "program", "refused", "node-full", "out-of-memory", "consequence"]

# What gloo, NCCL and torch's store say when the other end of a connection is gone.
_CONSEQUENCES = re.compile(
    r"connection (was )?(reset|closed)|broken pipe|connection refused|remote process (has )?exited|ncclRemoteError"
    r"|NCCL communicator was aborted|socket closed|recvValue failed|sendBytes failed|failed to recv|pair\.cc"
    r"|connectFullMesh|wait timeout after|Timed out waiting|Application timeout caused pair closure",
    re.IGNORECASE,
)
_OF_OTHERS = ("OtherRankError",)  # of reference/world.py, which execute/ does not load where nothing trains
_NETWORK_ERRORS = ("DistNetworkError", "DistStoreError")


@dataclass(frozen=True)
class Cause:
    """What ended a group. `kind`:

    died: a worker ended without a word; preempted: by SIGTERM from outside, or with its node; hang: no step was made
    for too long; program: an exception; refused: an error that a person must mend, which no new attempt does;
    node-full: the disk of a node, which `node` names where that is known; out-of-memory; consequence: another worker
    was gone. `rows`: how many sequences a rank computed at once then; 0: not known.
    """

    kind: Kind
    words: str
    rank: int | None = None
    run_id: str = ""
    step: int = 0
    is_unwritable: bool = False
    damaged: str = ""
    rows: int = 0
    node: str = ""


def needs_mending(error: BaseException) -> bool:
    """Whether an error is one that a person must mend, which trying again does not; damaged shards are made anew."""
    return isinstance(error, RaystudyError) and not isinstance(error, DamagedError)


def cause_of(error: BaseException, rank: int, run_id: str, step: int, *, is_out_of_memory: bool) -> Cause:
    """The cause that an exception on `rank` is, at a step of a run."""
    about: dict[str, Any] = {"rank": rank, "run_id": run_id, "step": step}
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        error = unwritable(error.filename or "a file", error)
    if isinstance(error, RaystudyError) and type(error).__name__ not in _OF_OTHERS:
        damaged = str(error.path) if isinstance(error, DamagedError) else ""
        is_unwritable = isinstance(error, UnwritableError | NodeFullError)
        is_full = isinstance(error, NodeFullError) and not isinstance(error, OtherCodeError)  # which a person mends
        kind: Kind = "node-full" if is_full else "refused"
        return Cause(kind, str(error), **about, is_unwritable=is_unwritable, damaged=damaged)
    text = str(error).strip()
    words = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}".removesuffix(": ")
    if is_out_of_memory:
        return Cause("out-of-memory", words, **about)
    return Cause("consequence" if is_consequence(error) else "program", words, **about)


def is_consequence(error: BaseException) -> bool:
    """Whether an exception says only that another worker is gone."""
    if type(error).__name__ in _OF_OTHERS:
        return True
    if isinstance(error, ConnectionError) or type(error).__name__ in _NETWORK_ERRORS:
        return "address already in use" not in str(error).lower()
    return isinstance(error, RuntimeError) and _CONSEQUENCES.search(str(error)) is not None


def leave_cause(folder: StoragePath, cause: Cause) -> bool:
    """Leave a rank's cause for whoever started the group; False when another was first."""
    name = f"consequence-{cause.rank}" if cause.kind == "consequence" else "cause"
    return write_json(folder / f"{name}.json", asdict(cause), exclusive=True, durable=False)


def first_cause(folder: StoragePath) -> Cause | None:
    """The first cause that a rank left, else a consequence, if there is any."""
    for path in [folder / "cause.json", *(path for path in json_files(folder) if path.name.startswith("consequence"))]:
        found = read_json(path)
        if found is not None:
            return Cause(**found)
    return None
