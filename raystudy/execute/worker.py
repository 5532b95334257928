"""A worker process of `--local`: reads tasks from standard input, writes their reports, a JSON value a line.

Of a group's task each report comes as soon as its run has ended. `null` says that a task has ended.
Ends at once when its driver is gone (its standard input closes), even in the middle of a run.
"""

import json
import os
import queue
import sys
import threading
from dataclasses import asdict

from raystudy.execute.work import Task, reports_of, settle_process


def _read_tasks(tasks: "queue.Queue[Task]") -> None:
    for line in sys.stdin:
        tasks.put(Task(**json.loads(line)))
    os._exit(0)


def main() -> None:
    """Serve until standard input closes."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error, not between the reports
    tasks: queue.Queue[Task] = queue.Queue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    while True:
        task = tasks.get()
        for report in reports_of(task):
            lines.write(json.dumps(asdict(report)) + "\n")
            if task.group:
                lines.flush()
        lines.write("null\n")
        lines.flush()
        settle_process()


if __name__ == "__main__":
    main()
