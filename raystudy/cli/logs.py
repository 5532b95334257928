"""Print the log of a study's job, or follow it to the job's end."""

import argparse
import sys

from raystudy.cli.jobs import the_job
from raystudy.cli.options import add_address, add_job
from raystudy.distribute.jobs.following import follow
from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server import JobServer, open_job_server

_INTERRUPTED = 130
_SIGNALS = 128  # a shell's exit status for a command that a signal ended is above


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_job(parser)
    add_address(parser)
    parser.add_argument("--follow", action="store_true", help="go on until the job has ended, and end as it does")


def call(options: argparse.Namespace) -> int:
    """Print; with --follow the exit status is the job's."""
    server = open_job_server(options.address)
    job = the_job(server, options.job)
    if options.follow:
        return follow_to_end(server, job.id)
    print(server.logs(job.id), end="")
    return 0


def follow_to_end(server: JobServer, job_id: str) -> int:
    """Follow a job; Ctrl-C ends the following alone. Returns the exit status."""
    try:
        job = follow(server, job_id, _write, lambda line: print(f"raystudy: {line}", file=sys.stderr))
    except KeyboardInterrupt:
        print(
            f"\nraystudy: no longer followed; {job_id} goes on. Follow it again: raystudy logs {job_id} --follow "
            f"--address {server.url}; stop it: raystudy stop {job_id} --address {server.url}",
            file=sys.stderr,
        )
        return _INTERRUPTED
    ended = {"SUCCEEDED": "has succeeded", "FAILED": "has failed", "STOPPED": "was stopped"}[job.status]
    print(f"{job_id} {ended}")
    if job.status == "FAILED" and (why := _untold(job)):
        print(f"raystudy: {why}. Finished runs are kept; submit the study again to go on from them", file=sys.stderr)
    return job.exit_status


def _untold(job: Job) -> str:
    """What the driver could not say itself, as it was killed or never ran; empty where it ended by itself."""
    if job.exit_code is None:
        return (job.message.strip().splitlines() or ["the job's driver is gone"])[-1].rstrip(".")
    is_killed = job.exit_code < 0 or job.exit_code > _SIGNALS
    return f"the job's driver was killed (exit status {job.exit_code}) before it could say why" if is_killed else ""


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
