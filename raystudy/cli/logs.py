"""Print the log of a study's job, or follow it to the job's end."""

import argparse
import sys

from raystudy.cli.jobs import the_job
from raystudy.cli.options import add_address, add_job
from raystudy.distribute.jobs.following import follow
from raystudy.distribute.jobs.server import JobServer, open_job_server

_INTERRUPTED = 130


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
    if job.status == "FAILED" and job.exit_code is None and job.message:
        print(f"raystudy: {job.message.strip().splitlines()[-1]}", file=sys.stderr)
    return job.exit_status


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
