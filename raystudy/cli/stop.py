"""Stop a study's job: it is interrupted, ends in its own time, and finished runs stay."""

import argparse
import time
from pathlib import Path, PurePosixPath

from raystudy.artifacts.storage import Storage, is_uri, open_storage
from raystudy.cli.jobs import the_job
from raystudy.cli.options import add_address, add_job, add_storage
from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server import open_job_server
from raystudy.distribute.jobs.stopping import ledger_words, stop_job
from raystudy.errors import MissingPackageError, StorageError


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
    if (job.stop_signal, job.stop_seconds) == (Job.stop_signal, Job.stop_seconds):
        print(
            f"note: {job.id} was started without RAY_JOB_STOP_SIGNAL and RAY_JOB_STOP_WAIT_TIME_S: unless its head has "
            f"them Ray sends it {job.stop_signal}, and kills it {job.stop_seconds:g} s later"
        )
    began = time.monotonic()
    ended = stop_job(server, job.id)
    print(f"{job.id} {ended.status} after {time.monotonic() - began:.1f} s")
    storage = _storage_of(options, job)
    name = job.name or _name_on(storage, job)
    print(ledger_words(storage if name else None, name))
    return 0


def _storage_of(options: argparse.Namespace, job: Job) -> Storage | None:
    """Where the job's study lies; None where that is not known here, as of a relative path on the cluster."""
    if not options.storage and not is_uri(job.storage) and not Path(job.storage).is_absolute():
        return None
    try:
        return open_storage(options.storage or job.storage)
    except (StorageError, MissingPackageError):
        return None


def _name_on(storage: Storage | None, job: Job) -> str:
    """The name of a study that is known by its file alone: the file's own, where the storage has such a study."""
    stem = PurePosixPath(job.line.file).stem if job.line else ""
    try:
        return stem if stem and storage is not None and storage.study(stem).is_there() else ""
    except StorageError:
        return ""
