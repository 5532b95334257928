"""STUB work that trains nothing: it notes where Ray placed it, and waits. Run as a program it is one launch.

    python -m tests.distribute.placed_work FOLDER

On the cluster of RAY_ADDRESS, with tasks of three shapes: two of a whole GPU, five of a quarter, one without.
"""

import json
import os
import sys
import time
from pathlib import Path

from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.execute.work import RunReport, Task
from raystudy.specs.study import Resources
from tests.train.test_training import a_run


def note_place(task: Task) -> list[RunReport]:
    """The stub: notes what it was given and from when to when; a shorter wait for shorter tasks."""
    given = {"gpus": task.gpus, "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "from": time.time()}
    time.sleep(5.0 if task.gpus == 1 else 2.0)
    Path(task.storage, f"{task.task_id}.json").write_text(json.dumps({**given, "to": time.time()}))
    return [RunReport(task.task_id, "finished")]


def main() -> None:
    folder = sys.argv[1]
    asks = [(0.1, 1.0)] * 2 + [(0.05, 0.25)] * 5 + [(0.05, 0.0)]
    tasks = [
        Task((a_run("0" * 32, seed=seed).model_dump_json(),), folder, {}, device="cuda", cpus=cpus, gpus=gpus)
        for seed, (cpus, gpus) in enumerate(asks)
    ]
    with TuneExecutor(None, [Resources(gpus_per_run=1)], work=note_place) as executor:
        print([report.status for report in executor.run(tasks)], executor.devices.gpus)


if __name__ == "__main__":
    main()
