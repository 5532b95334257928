"""A process that makes tasks, watched by this one: if it is killed, as for want of memory, that is an attempt too.

The watcher loads nothing heavy, so that what a node takes away first is the process that trains. Signals of a batch
system are passed on. A job of Slurm that stopped where it can go on is put back into the queue.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from raystudy.errors import IncompleteError, StoppedError
from raystudy.execute.groups import PARENT_VARIABLE
from raystudy.execute.run_task import EmittedTask, leave_attempt, left_alone, slurm_job
from raystudy.execute.threads import thread_settings
from raystudy.execute.work import RunReport, failed_reports
from raystudy.study.wanted import WantedRun

MOST_REQUEUES = 50  # of one job; each makes at least a step, so more says that the walltime is far too short
_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
_WAY_OUT_SECONDS = 10.0
# A process that was asked to stop, and had no handlers yet or was on its way out: how Popen and a shell say so.
_STOPPED = {sign: n for n in (signal.SIGTERM, signal.SIGINT) for sign in (-n, 128 + n)}


def make_watched(command: Sequence[str], tasks: Sequence[EmittedTask]) -> int:
    """Run `command`, which makes `tasks`, in a process of one thread a core; its exit status.

    Raises:
        IncompleteError: it was killed; the run that it was making then has an attempt that says so.
        StoppedError: it was asked to stop, and ended before it could listen; that is no failure of a run.
    """
    environment = {**os.environ, **thread_settings(1), PARENT_VARIABLE: str(os.getpid())}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)  # closing it ends the process too
    try:
        with _passing_on(process) as passed:
            status = process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
            process.wait(_WAY_OUT_SECONDS)
        raise
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
    if status in _STOPPED or -status in passed:
        name = signal.Signals(_STOPPED.get(status, -status)).name
        raise StoppedError(f"stopped by {name} before it could say how far it was. The same command goes on")
    if status >= 0:
        return status
    cause = f"the process that made it was killed by signal {-status}"
    cause += ", by hand or for want of memory (ask for more in the job's script: --mem)" if status == -9 else ""
    for emitted, run in _unmade(tasks):
        leave_attempt(emitted.task, run, RunReport(run.run_id, "failed", 0, time.monotonic() - began, cause))
        raise IncompleteError(f"all runs of a task must have a result, but one failed\n  {run}: {cause}")
    return 128 - status  # as a shell says it; on its way out, for all runs have what they were to have


def _unmade(tasks: Sequence[EmittedTask]) -> Iterator[tuple[EmittedTask, WantedRun]]:
    """Runs that lack a record or anything else that they are asked for, in their order; less those left alone."""
    for emitted in tasks:
        unmade = {report.run_id for report in failed_reports(emitted.task, "") if report.status == "failed"}
        unmade -= left_alone(emitted).keys()
        yield from ((emitted, run) for run in emitted.runs if run.run_id in unmade)


@contextlib.contextmanager
def _passing_on(process: "subprocess.Popen[bytes]") -> Iterator[set[int]]:
    """Pass a batch system's signals on to `process`; those that came."""
    passed: set[int] = set()

    def pass_on(number: int, _frame: object) -> None:
        passed.add(number)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def requeue(say: Callable[[str], None]) -> None:
    """Put this process's job of Slurm back into the queue, where there is one; what came of it is said."""
    job = slurm_job()
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    if not job:
        say("there is no job of Slurm to put back into the queue: start the same command again to go on")
    elif restarts.isdigit() and int(restarts) >= MOST_REQUEUES:
        say(f"job {job} was put back into the queue {restarts} times, and is not any more. Give it more --time")
    else:
        try:
            subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            told = (getattr(error, "stderr", "") or str(error)).strip()
            say(f"job {job} cannot be put back into the queue ({told}); the study's next wave makes what is left")
        else:
            say(f"job {job} is put back into the queue, and goes on there")
