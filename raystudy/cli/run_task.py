"""Make the runs of one task that `raystudy plan --emit` has written, as a job of Slurm or by hand.

Runs that have a result are left; the first result of a run wins. Before a walltime ends, and at SIGTERM or SIGUSR1, a
run stops at its next step with a checkpoint, and the exit status is 11: the same command goes on there.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from raystudy.artifacts.storage import open_storage
from raystudy.cli.options import add_log_format
from raystudy.errors import SpecError, StoppedError
from raystudy.execute.groups import PARENT_VARIABLE
from raystudy.execute.log_events import log_format
from raystudy.execute.progress import Progress
from raystudy.execute.run_task import EmittedTask, make_emitted, read_job, read_tasks
from raystudy.execute.walltime import MARGIN_SECONDS, read_walltime, stopping_in_time
from raystudy.execute.watched_task import make_watched, requeue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("tasks", metavar="TASKS", nargs="?", help="a file of tasks, one JSON object a line")
    parser.add_argument("--index", type=int, metavar="I", help="which job of the array this is, from 0")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="tasks of each job (default 1)")
    parser.add_argument(
        "--task", metavar="FILE", help="a file that holds one task alone, in place of TASKS and --index"
    )
    parser.add_argument("--storage", metavar="URI", help="what the storage is called here, if not as in the tasks")
    parser.add_argument("--walltime", metavar="HH:MM:SS", help="stop at a checkpoint before so much time is over")
    help_text = (
        f"seconds before the walltime's end at which to stop (default {MARGIN_SECONDS:.0f}, at most a half of it)"
    )
    parser.add_argument("--margin", type=float, default=MARGIN_SECONDS, metavar="SECONDS", help=help_text)
    help_text = "when it has stopped so, put this job of Slurm back into the queue (scontrol requeue)"
    parser.add_argument("--requeue", action="store_true", help=help_text)
    help_text = "train in this process, and not in one that it watches: what is killed then leaves no word of it"
    parser.add_argument("--here", action="store_true", help=help_text)
    add_log_format(parser)


def call(options: argparse.Namespace) -> int:
    """Make the tasks; ends non-zero if a run has no result."""
    tasks = _chosen(options)
    walltime = None if options.walltime is None else read_walltime(options.walltime)
    if not options.margin > 0:
        raise SpecError(f"--margin must be above 0 seconds, but got {options.margin:g}")
    progress = Progress(chosen=log_format(options.log_format))
    if options.here:
        return _make_here(tasks, walltime, options.margin, progress)
    try:
        status = make_watched(_command(options), tasks)
    except StoppedError:
        if options.requeue:
            requeue(progress.say)
        raise
    if status == StoppedError.exit_status and options.requeue:
        requeue(progress.say)
    return status


def _chosen(options: argparse.Namespace) -> list[EmittedTask]:
    """The tasks that this call is to make."""
    if (options.task is None) == (options.tasks is None) or (options.tasks is None) != (options.index is None):
        raise SpecError("give either TASKS and --index I, or --task FILE")
    if options.task is not None:
        tasks = read_tasks(Path(options.task))
        if len(tasks) != 1:
            raise SpecError(f"--task must name a file of one task, but {options.task} holds {len(tasks)}")
    else:
        tasks = read_job(Path(options.tasks), options.index, options.count)
    if options.storage is None:
        return tasks
    root = str(open_storage(options.storage).root)
    return [replace(emitted, task=replace(emitted.task, storage=root)) for emitted in tasks]


def _command(options: argparse.Namespace) -> list[str]:
    """The same call for a process that trains."""
    words = [sys.executable, "-m", "raystudy", "run-task", "--here", "--margin", str(options.margin)]
    words += [options.tasks] if options.tasks is not None else []
    for name in ("index", "count", "task", "storage", "walltime", "log_format"):
        value = getattr(options, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    return words


def _make_here(tasks: list[EmittedTask], walltime: int | None, margin: float, progress: Progress) -> int:
    if PARENT_VARIABLE in os.environ:
        from raystudy.execute.rank_process import end_with_parent

        end_with_parent()
    with stopping_in_time(walltime, margin):
        ended = make_emitted(tasks, progress)
    told = ", ".join(f"{count} {status}" for status, count in sorted(ended.items()))
    line = f"{len(tasks)} tasks, {ended.total()} runs: {told}"
    if progress.is_json:
        progress.say(line, event="task-ended", ended=dict(ended))
    else:
        print(line)
    return 0
