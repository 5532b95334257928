"""Jobs whose drivers are asked for on different places, by our own client of the job server. As a program:

    python -m tests.distribute.driver_places FOLDER

Each driver is a shell that leaves the folder of its node in a file of FOLDER. (Its log would not do: two nodes on one
machine have one address, by which Ray looks for logs.) The first takes the head's only CPU until the second, which may
be anywhere and wants a CPU too, has ended.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server import JobServer, open_job_server
from raystudy.distribute.jobs.submission import Driver

# Up from this shell to the raylet, whose command names its node's folder.
_TELL = """p=$$
until grep -q raylet/rayle[t] /proc/$p/cmdline; do p=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$p/status); done
tr '\\0' '\\n' < /proc/$p/cmdline | sed -n 's/^--temp_dir=//p' > """
_PATIENCE_SECONDS = 90.0


def main() -> None:
    folder, server = Path(sys.argv[1]), open_job_server(None)

    def submit(name: str, driver: Driver, then: str = "") -> None:
        server.submit(f"{_TELL} {folder / name}{then}", f"driver-on-{name}", **driver.options)

    off_head = Driver(0.0, "workers", server.head_node())
    submit("head", Driver(1.0, "head"), "; while true; do sleep 0.1; done")
    _until(server, "head", lambda job: job.status == "RUNNING" and (folder / "head").exists())
    submit("any", Driver(1.0, "any"))
    _until(server, "any", lambda job: job.is_over)
    server.stop("driver-on-head")
    _until(server, "head", lambda job: job.is_over)
    submit("workers", off_head)
    submit("default", Driver())
    for name in ("workers", "default"):
        _until(server, name, lambda job: job.is_over)


def _until(server: JobServer, name: str, is_so: Callable[[Job], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so(job := server.job(f"driver-on-{name}")):
        assert time.monotonic() < deadline, job
        assert job.status != "FAILED", job
        time.sleep(0.2)


if __name__ == "__main__":
    main()
