"""A study made wave by wave from its sbatch scripts, each job stopped by SIGUSR1 at random moments and started again.

Models of one process and of two DeepSpeed workers. Every loss must be that of an undisturbed launch, bit for bit.
There is no Slurm here: bash runs the scripts with the variables that a job would have and a `scontrol` of the test's
own, each call of which is a requeue that this check then makes. Leaves docs/results/slurm-<date>.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.study.results import StudyResults
from tests.conftest import ROOT, run_cli
from tests.execute.test_local import results_on, without_seconds
from tests.reference.test_group_studies import STUDY, losses
from tests.slow.results import table, today, write_result

STEPS = 400
EARLIEST, LATEST = 1.0, 12.0  # seconds after which a job is asked to stop
COLUMNS = (
    "stops",
    "requeues",
    "resumed_runs",
    "runs_lost",
    "runs_repeated",
    "same_losses",
    "same_comparison",
    "seconds",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.slurm")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rs-slurm-") as folder:
        place = Path(folder)
        study = place / "groups.yaml"
        study.write_text(STUDY.replace("steps: 60", f"steps: {STEPS}"))
        done = run_cli("run", study, "--storage", place / "undisturbed", "--local", timeout=900)
        assert done.returncode == 0, done.stderr
        rows = [_trial(options.seed + number, place, study) for number in range(options.trials)]
    _write(rows)
    return 0 if all(row["is_good"] for row in rows) else 1


def _trial(seed: int, place: Path, study: Path) -> dict[str, Any]:
    started, moments, own = time.monotonic(), random.Random(seed), place / str(seed)
    own.mkdir()
    storage, before = own / "storage", dict[str, int]()
    row: dict[str, Any] = {"seed": seed, "stops": 0, "requeues": 0, "runs_lost": 0, "runs_repeated": 0}
    while True:
        words = ("plan", study, "--storage", storage, "--emit", "slurm-array", "--out", own / "wave", "--json")
        done = run_cli(*words, timeout=300)
        assert done.returncode == 0, done.stderr
        arrays = json.loads(done.stdout)["arrays"]
        if not arrays:
            break
        for array in arrays:
            for index in range(array["num_jobs"]):
                _job(own / "wave" / array["script"], index, own, moments, row)
                now = {run: (storage / "runs" / run / "result.json").stat().st_mtime_ns for run in results_on(storage)}
                row["runs_lost"] += len(before.keys() - now.keys())
                row["runs_repeated"] += sum(now.get(run) != when for run, when in before.items() if run in now)
                before = now
    results = [StudyResults(at, at.study("groups")) for at in (Storage(storage), Storage(place / "undisturbed"))]
    row["resumed_runs"] = sum(
        Storage(storage).runs.read(run).result["provenance"].get("resumed_from_step", 0) > 0  # type: ignore[union-attr]
        for run in results_on(storage)
    )
    row["same_losses"] = losses(storage) == losses(place / "undisturbed")
    first, second = (without_seconds(each.comparison_json) for each in results)
    row["same_comparison"] = first == second
    row["seconds"] = round(time.monotonic() - started, 1)
    row["is_good"] = row["same_losses"] and row["same_comparison"] and not (row["runs_lost"] or row["runs_repeated"])
    print(f"seed {seed}: {row}", flush=True)
    return row


def _job(script: Path, index: int, own: Path, moments: random.Random, row: dict[str, Any]) -> None:
    """One job of the array: asked to stop once or twice if it goes on so long, and begun again as Slurm would."""
    (own / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> "{own}/requeued"\n')
    (own / "scontrol").chmod(0o755)
    variables = {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": str(index), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **variables, "PATH": f"{own}:{os.environ['PATH']}"}
    for stops_left in (2, 1, 0):
        job = subprocess.Popen(["bash", str(script)], env=environment, stderr=subprocess.PIPE, text=True)
        if stops_left:
            try:
                job.wait(moments.uniform(EARLIEST, LATEST))
            except subprocess.TimeoutExpired:
                job.send_signal(signal.SIGUSR1)
                row["stops"] += 1
        said = job.communicate(timeout=600)[1]
        if job.returncode == 0:
            return
        assert job.returncode == 11, said
        requeued = (own / "requeued").read_text().splitlines()
        assert requeued.pop() == f"requeue 1_{index}"
        row["requeues"] += 1
    raise AssertionError("a job that nothing stopped must end well")


def _write(rows: list[dict[str, Any]]) -> None:
    lines = [
        f"# Jobs of an array, stopped at random moments, {today()}",
        "",
        "Made by `python -m tests.slow slurm`: the waves of a study (models of one process and of two DeepSpeed",
        f"workers on CPUs, {STEPS} steps) as sbatch scripts, run by bash: there is no Slurm here. Each job gets",
        f"SIGUSR1 {EARLIEST:g} to {LATEST:g} s after it began, twice at most, and is begun again.",
        "Same: as in an undisturbed launch.",
        "",
        *table("seed", COLUMNS, rows),
    ]
    write_result("slurm", {"date": today(), "trials": rows}, lines)
