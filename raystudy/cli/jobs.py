"""List the jobs on a cluster that run studies."""

import argparse
import datetime
from pathlib import Path

from raystudy.cli.options import add_address, print_table
from raystudy.distribute.jobs.job import Job, find_job
from raystudy.distribute.jobs.server import JobServer, open_job_server
from raystudy.distribute.jobs.server_errors import NoSuchJobError
from raystudy.specs.load import is_file, load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_address(parser)


def call(options: argparse.Namespace) -> int:
    """Print a table, the newest job last."""
    server = open_job_server(options.address)
    jobs = sorted((job for job in server.jobs() if job.is_study), key=lambda job: job.started or 0.0)
    if not jobs:
        print(f"{server.url} has no jobs that run studies")
        return 0
    print_table(("id", "study", "status", "started", "attempt"), [_row(job) for job in jobs])
    return 0


def _row(job: Job) -> tuple[str, ...]:
    started = "-" if job.started is None else f"{datetime.datetime.fromtimestamp(job.started):%Y-%m-%d %H:%M:%S}"
    return job.id, job.study, job.status, started, "-" if job.attempt is None else str(job.attempt)


def the_job(server: JobServer, wanted: str) -> Job:
    """The job that `wanted` names: an id, a study's name (its newest job) or a study file.

    Raises:
        NoSuchJobError: the cluster has none such.
        SpecError: it has several that may be meant.
    """
    is_study_file = is_file(Path(wanted)) and Path(wanted).suffix in (".yaml", ".yml")
    name, listed = load_study(Path(wanted)).spec.name if is_study_file else wanted, server.jobs()
    found = [job for named in (name, wanted) if (job := find_job(named, listed)) is not None]
    job = min(found, key=lambda job: job.is_over, default=None)
    if job is None:
        raise NoSuchJobError(
            f"{server.url} must have a job of {name!r}, but has none. `raystudy jobs` lists them; one "
            f"that Ray's own command started goes by its id, or by the name of the file it runs"
        )
    return job
