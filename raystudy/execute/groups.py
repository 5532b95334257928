"""Tasks that several workers make together, on this machine: one process for each, ended with the task."""

from raystudy.execute.work import RunReport, Task


def run_group(task: Task) -> list[RunReport]:
    """Make the runs of `task`, each by all workers of its group."""
    raise NotImplementedError
