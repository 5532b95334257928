"""A worker makes runs only with the driver's own raystudy: other code may give other numbers under the same ids.

With a job's working directory all nodes have one raystudy; where each has its own, one may have been left behind.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass

from raystudy.errors import OtherCodeError
from raystudy.execute.code_digest import code_digest
from raystudy.execute.work import RunReport, Task, do_task, failed_report


@dataclass(frozen=True)
class SameCode:
    """Makes a task where the code is that of `digest`; else it is not begun and goes to another node."""

    digest: str

    def __call__(self, task: Task) -> list[RunReport]:
        """What a trial does."""
        try:
            check_code(self.digest)
        except OtherCodeError as error:
            return [failed_report(run.run_id, error) for run in task.specs()]
        return do_task(task)


@dataclass(frozen=True)
class SameCodeOnRank:
    """The same for each worker of a group."""

    digest: str

    def __call__(self, task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:
        """What a worker does; loaded there only, since it needs torch."""
        check_code(self.digest)
        from raystudy.execute.rank import make_on_rank

        return make_on_rank(task, told)


def check_code(digest: str) -> None:
    """Raises OtherCodeError where this process has another raystudy than that of `digest`."""
    if code_digest() != digest:
        raise OtherCodeError(
            f"every node must run the driver's raystudy, but that of {socket.gethostname()} differs (its code is "
            f"{code_digest()}, the driver's {digest}). Install one version on all nodes, or let it travel with the job "
            f"(raystudy submit, or --working-dir); finished runs are kept"
        )
