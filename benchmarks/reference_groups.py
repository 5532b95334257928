"""Short runs of several workers under Ray Train: one group of workers for all of them against a Train run for each.

All is real: DeepSpeed trains on gloo, two workers, in a cluster of the launch's own. Each way is a whole launch from
before Ray starts until after it has ended, on a fresh storage with shards that are built already; the same tasks, but
cut into single runs for the second way. With `--separate N` fewer runs go the second way and its time for all of them
is scaled: what starts and ends once, and N runs' shares. Writes one JSON file.

    python benchmarks/reference_groups.py --json benchmarks/results/reference_groups.json
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.execute.budget import Budget
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import RunReport, Task
from raystudy.specs.load import load_study
from raystudy.specs.study import Resources

STUDY = Path(__file__).resolve().parent / "reference-groups.yaml"
RUNS = 20


class TimedExecutor(TuneExecutor):
    """The executor of a launch, with when tasks were given and reports came; `is_separate`: each run a task alone."""

    def __init__(self, resources: Resources, *, is_separate: bool) -> None:
        super().__init__(None, resources)
        self._is_separate = is_separate
        self.given, self.reported = 0.0, [0.0]

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """As the executor's, of tasks that may be cut first."""
        if self._is_separate:
            assert not any(task.asked for task in tasks)
            tasks = [replace(task, runs=(run,)) for task in tasks for run in task.runs]
        self.given, self.reported = time.time(), []
        for report in super().run(tasks):
            self.reported.append(time.time())
            yield report


def measure(storage: Path, num_runs: int, *, is_separate: bool) -> dict[str, Any]:
    """One launch of so many of the runs."""
    loaded = load_study(STUDY)
    executor = TimedExecutor(loaded.spec.resources, is_separate=is_separate)
    started = time.time()
    done = run_study(loaded, Storage(storage), lambda: executor, Progress(), budget=Budget(max_runs=num_runs))
    ended = time.time()
    if num_runs == RUNS:
        done.raise_if_incomplete()
    assert done.num_made == num_runs
    results = sorted(storage.glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime)
    begun = [(path.parent / "spec.json").stat().st_mtime for path in results]
    return {
        "runs": num_runs,
        "wall_seconds": ended - started,
        "before_tasks_seconds": executor.given - started,
        "after_reports_seconds": ended - executor.reported[-1],
        "first_run_begins_seconds": begun[0] - executor.given,  # after its task was given to Ray
        "between_runs_seconds": [b - path.stat().st_mtime for b, path in zip(begun[1:], results, strict=False)],
        "inside_runs_seconds": [json.loads(path.read_text())["seconds"]["total"] for path in results],
    }


def share(storage: Path, built: Path) -> Path:
    """A fresh storage with the shards of another."""
    storage.mkdir()
    for name in ("shards", "built"):
        (storage / name).symlink_to(built / name)
    return storage


def compare(scratch: Path, separate: int) -> dict[str, Any]:
    """Both ways; shards, and what DeepSpeed compiles, are made by two runs before."""
    measure(scratch / "built", 2, is_separate=False)
    together = measure(share(scratch / "together", scratch / "built"), RUNS, is_separate=False)
    apart = measure(share(scratch / "apart", scratch / "built"), separate, is_separate=True)
    once = apart["before_tasks_seconds"] + apart["after_reports_seconds"]
    each = (apart["wall_seconds"] - once) / separate
    apart["wall_seconds_for_all_runs"] = once + each * RUNS
    apart["is_scaled"] = separate != RUNS
    losses = [losses_on(scratch / name) for name in ("together", "apart")]
    return {
        "inputs": {
            "study": STUDY.name,
            "runs": RUNS,
            "workers": 2,
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "load_average_at_end": os.getloadavg(),
        },
        "separate_over_shared": apart["wall_seconds_for_all_runs"] / together["wall_seconds"],
        "same_losses": all(losses[0][run] == value for run, value in losses[1].items()),
        "shared": together,
        "separate": apart,
    }


def losses_on(storage: Path) -> dict[str, list[float]]:
    """Of each run the losses it ended with."""
    results = [(path.parent.name, json.loads(path.read_text())) for path in storage.glob("runs/*/result.json")]
    return {run: [row["value"] for row in result["metrics"] if row["name"] == "loss"] for run, result in results}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--separate", type=int, default=RUNS, help="runs that go the second way")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="raystudy-bench-") as scratch:
        summary = compare(Path(scratch), options.separate)
    print(json.dumps(summary, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
