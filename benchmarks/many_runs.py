"""What a launch of very many short runs costs with Ray Tune, or with --local: wall time, and the driver's memory.

A run is a STUB named so: its worker sleeps and leaves a record through the real ledger, so that the cores are Ray's
and raystudy's and what is measured is overhead. All else (study, waves, tasks, Tune, ledger, exit) is the real thing.
The spec of a run has as many steps as raystudy estimates for the seconds slept (or for --estimate), so that tasks are
cut as they would be.
Wall time is that of the whole launch, from before Ray starts until after it has ended. Writes one JSON file.

    python benchmarks/many_runs.py --runs 2000 --seconds 0.5 --json benchmarks/results/many-runs.json
    python benchmarks/many_runs.py --runs 300 --seconds 0 --json benchmarks/results/trivial-runs.json
    python benchmarks/many_runs.py --runs 5000 --seconds 0 --estimate 1 --json benchmarks/results/5000-runs.json
    python benchmarks/many_runs.py --runs 5000 --seconds 0 --local --json benchmarks/results/5000-runs-local.json
"""

import argparse
import json
import os
import platform
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from raystudy.artifacts.storage import Storage
from raystudy.distribute.tune_executor import TuneExecutor, Work
from raystudy.execute import local, worker
from raystudy.execute.local import Executor
from raystudy.execute.loop import Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.execute.tasks import FEWEST_TASKS, estimated_seconds
from raystudy.execute.work import RunReport, Task
from raystudy.specs.load import load_study
from raystudy.study.state import StudyInputs, StudyState

STUDY = Path(__file__).resolve().parent / "many-runs.yaml"
RUNS_PER_SEED = 5 * 8  # recipes x learning rates


def stub_work(seconds: float) -> Work:
    """Work that trains nothing: it sleeps `seconds` a run and writes a record with a made-up loss."""

    def work(task: Task) -> list[RunReport]:
        ledger = Storage(Path(task.storage)).runs
        reports = []
        for run in task.specs():
            started = time.perf_counter()
            ledger.write_spec(run)
            ledger.write_curve(run.run_id, [{"step": 1, "loss": 3.0}])
            time.sleep(max(0.0, seconds - (time.perf_counter() - started)))
            rows = [{"name": n, "dataset": d, "value": 3.0} for d in task.validation for n in ("loss", "unigram-loss")]
            total = time.perf_counter() - started
            result = {"status": "finished", "spec": run.model_dump(mode="json"), "metrics": rows}
            ledger.write_result(run.run_id, {**result, "seconds": {"total": total}, "provenance": {"stub": True}})
            took = time.perf_counter() - started
            reports.append(RunReport(run.run_id, "finished", run.num_tokens, took, is_made=True))
        return reports

    return work


def steps_for(seconds: float) -> int:
    """Steps of a run that raystudy estimates at `seconds`."""
    study = load_study(STUDY).spec
    recipe = study.recipes[0].name
    state = StudyState(study, StudyInputs({recipe: ""}, {}, 4096), {})
    return max(1, round(seconds / estimated_seconds(state.want("target", recipe, 1e-3, 0))))


class DriverMemory(threading.Thread):
    """Samples this process's resident memory, and how many runs had ended, until stopped."""

    def __init__(self, progress: "Counting") -> None:
        super().__init__(daemon=True)
        self.progress, self.ended = progress, threading.Event()
        self.samples: list[tuple[float, int, float]] = []  # seconds, runs ended, MiB

    def run(self) -> None:
        """Sample once a second."""
        started = time.perf_counter()
        while not self.ended.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            self.samples.append((time.perf_counter() - started, self.progress.num_ended, mib))

    def summary(self) -> dict[str, float]:
        """MiB after the first tenth of the runs and at the end, and the slope between (least squares)."""
        runs, mib = np.array([s[1] for s in self.samples]), np.array([s[2] for s in self.samples])
        later = (runs >= 0.1 * runs.max()) & (runs > 0)
        slope = float(np.polyfit(runs[later], mib[later], 1)[0]) * 1000 if np.ptp(runs[later]) else 0.0
        first, last = float(mib[later][0]), float(mib[later][-1])
        return {"after_first_tenth": first, "end": last, "largest": float(mib.max()), "slope_per_1000_runs": slope}


class Counting(Progress):
    """Progress that also counts."""

    num_ended = 0

    def ended(self, status: str, tokens: int, flops: float) -> None:
        """A run has ended."""
        self.num_ended += 1
        super().ended(status, tokens, flops)


def be_worker(seconds: float) -> None:
    """A worker process of --local whose work is the stub."""
    work = stub_work(seconds)
    worker.reports_of = lambda task: iter(work(task))  # type: ignore[assignment,return-value]
    worker.main()


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """One launch."""
    seconds = options.seconds
    seeds = json.dumps(list(range(options.runs // RUNS_PER_SEED)))
    steps = steps_for(seconds if options.estimate is None else options.estimate)
    overrides = [f"training.steps={steps}", f"protocols.truth.seeds={seeds}", f"protocols.fixed.seeds={seeds}"]
    loaded = load_study(STUDY, overrides)
    progress = Counting()
    memory = DriverMemory(progress)
    memory.start()
    started = time.perf_counter()
    executor: Executor
    if options.local:
        local.WORKER = (sys.executable, str(Path(__file__).resolve()), "--as-worker", str(seconds))  # type: ignore[assignment]
        executor = local.LocalExecutor(None)
    else:
        executor = TuneExecutor(None, loaded.spec.all_resources, work=stub_work(seconds))
    done: Launch = run_study(loaded, Storage(scratch / "storage"), lambda: executor, progress)
    wall = time.perf_counter() - started
    memory.ended.set()
    memory.join()
    done.raise_if_incomplete()
    slots = len(os.sched_getaffinity(0))
    return {
        "inputs": {
            "work": f"STUB: sleeps {seconds} s a run and writes a record; nothing is trained",
            "executor": "--local" if options.local else "Ray Tune",
            "runs": done.num_made,
            "steps_in_spec": steps,
            "fewest_tasks_of_a_wave": FEWEST_TASKS,
            "slots": slots,
            "machine": platform.machine(),
        },
        "wall_seconds": wall,
        "least_possible_seconds": done.num_made * seconds / slots,
        "wall_seconds_per_run": wall / done.num_made,
        "overhead_slot_seconds_per_run": (wall * slots - done.num_made * seconds) / done.num_made,
        "load_average_at_end": os.getloadavg(),
        "driver_memory_mib": memory.summary(),
        "raw": {"seconds_runs_mib": [[round(t, 1), n, round(m, 1)] for t, n, m in memory.samples]},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--estimate", type=float, help="seconds that raystudy is to expect of a run, if not --seconds")
    parser.add_argument("--local", action="store_true", help="without Ray")
    parser.add_argument("--as-worker", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.as_worker is not None:
        be_worker(options.as_worker)
        return
    with TemporaryDirectory(prefix="raystudy-bench-") as scratch:
        summary = measure(options, Path(scratch))
    print(json.dumps({key: value for key, value in summary.items() if key != "raw"}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
