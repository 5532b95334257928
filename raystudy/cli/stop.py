"""Stop a study's job: it is interrupted, ends in its own time, and finished runs stay."""

import argparse
import time

from raystudy.artifacts.storage import open_storage
from raystudy.cli.jobs import the_job
from raystudy.cli.options import add_address, add_job, add_storage
from raystudy.distribute.jobs.job import STORAGE_KEY
from raystudy.distribute.jobs.server import open_job_server
from raystudy.distribute.jobs.stopping import ledger_words, stop_job
from raystudy.errors import StorageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_job(parser)
    add_address(parser)
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Stop, wait for the end, and say how the ledger was left."""
    server = open_job_server(options.address)
    job = the_job(server, options.job)
    if job.is_over:
        print(f"{job.id} had ended: {job.status}")
        return 0
    began = time.monotonic()
    ended = stop_job(server, job.id)
    print(f"{job.id} {ended.status} after {time.monotonic() - began:.1f} s")
    location = options.storage or job.metadata.get(STORAGE_KEY)
    try:
        storage = open_storage(location) if location else None
    except StorageError:
        storage = None
    print(ledger_words(storage, job.study))
    return 0
