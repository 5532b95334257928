"""A worker process of `--local`: reads jobs from standard input, writes reports, one JSON object a line.

Ends at once when its driver is gone (its standard input closes), even in the middle of a run.
"""

import json
import os
import queue
import sys
import threading

from raystudy.execute.work import Job, do_job


def _read_jobs(jobs: "queue.Queue[Job]") -> None:
    for line in sys.stdin:
        jobs.put(Job(**json.loads(line)))
    os._exit(0)


def main() -> None:
    """Serve until standard input closes."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error, not between the reports
    jobs: queue.Queue[Job] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    while True:
        report = do_job(jobs.get())
        reports.write(json.dumps(report.as_dict()) + "\n")
        reports.flush()


if __name__ == "__main__":
    main()
