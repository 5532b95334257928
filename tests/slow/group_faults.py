"""Launches of a study of two DeepSpeed workers, killed at random moments; counts in docs/results/group-faults-<date>.

A trial kills the driver, a worker or both, up to three times, launches again, and compares every loss with those of a
study that was not disturbed. A seed draws all moments of its trial, as far as processes can be drawn again.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, run_cli
from tests.execute.test_local import copy_inputs, results_on
from tests.faults.trials import kill, wait_until_gone
from tests.reference.test_group_studies import STUDY, losses, ranks_of
from tests.slow.results import table, today, write_result

KINDS = {"SIGKILL a worker": (False, True), "SIGKILL the driver": (True, False), "SIGKILL both": (True, True)}
_LAST_SECONDS = 10.0  # by when a kill comes that is to hit any part of a group's life
COLUMNS = ("trials", "good", "kills", "resumed_runs", "runs_lost", "runs_repeated", "largest_difference", "seconds")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.group_faults")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=3000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rs-group-faults-") as folder:
        place = Path(folder)
        study = place / "groups.yaml"
        study.write_text(STUDY)
        done = run_cli("run", study, "--storage", place / "undisturbed", "--local", timeout=600)
        assert done.returncode == 0, done.stderr
        rows = [_row(name, options.seed, options.trials, place, study) for name in KINDS]
    _write(rows, options.seed)
    return 0 if all(row["good"] == row["trials"] for row in rows) else 1


def _row(name: str, seed: int, count: int, place: Path, study: Path) -> dict[str, Any]:
    started = time.monotonic()
    trials = []
    for number in range(count):
        trial = _trial(seed + number, KINDS[name], place, study)
        trials.append(trial)
        print(f"{name}: seed {seed + number}: {trial}", flush=True)
    return {
        "fault": name,
        "trials": count,
        "good": sum(trial["is_good"] for trial in trials),
        **{key: sum(t[key] for t in trials) for key in ("kills", "resumed_runs", "runs_lost", "runs_repeated")},
        "largest_difference": max(trial["largest_difference"] for trial in trials),
        "problems": [problem for trial in trials for problem in trial["problems"]],
        "seconds": round(time.monotonic() - started, 1),
    }


def _trial(seed: int, victims: tuple[bool, bool], place: Path, study: Path) -> dict[str, Any]:
    moments, (takes_driver, takes_worker) = random.Random(seed), victims
    storage = copy_inputs(place / "undisturbed", place / f"{seed}-{takes_driver}-{takes_worker}")
    trial: dict[str, Any] = {"kills": 0, "runs_lost": 0, "runs_repeated": 0, "problems": []}
    before: dict[str, tuple[int, int]] = {}
    words = [sys.executable, "-m", "raystudy", "run", str(study), "--storage", str(storage), "--local"]
    for _ in range(moments.randint(1, 3)):
        driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ranks = _wait(driver, storage, moments)
        if takes_worker and ranks:
            kill(moments.choice(ranks))
            trial["kills"] += 1
        if takes_driver:
            kill(driver.pid)
            trial["kills"] += 1
        driver.wait(600)
        if not wait_until_gone(ranks):
            trial["problems"].append("a rank lived on")
        before = _count(trial, before, results_on(storage))
    done = run_cli("run", study, "--storage", storage, "--local", timeout=600)
    if done.returncode:
        trial["problems"].append(f"exit status {done.returncode}: {done.stderr[-300:]}")
    return _compared(trial, storage, place / "undisturbed", before)


def _wait(driver: "subprocess.Popen[bytes]", storage: Path, moments: random.Random) -> list[int]:
    """The ranks at a drawn moment: of a group's life as a whole or, in half of the trials, soon after a checkpoint."""
    at_least, in_run = moments.randint(0, 3), moments.random() < 0.5
    seconds = moments.uniform(0.0, 0.5 if in_run else _LAST_SECONDS)
    deadline = time.monotonic() + 600
    while len(results_on(storage)) < at_least or not ranks_of(driver.pid) or (in_run and not _in_run(storage)):
        if driver.poll() is not None or time.monotonic() > deadline:
            return []
        time.sleep(0.01)
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(ranks_of(driver.pid)) == 2 and driver.poll() is None:
        time.sleep(0.01)
    return ranks_of(driver.pid)


def _in_run(storage: Path) -> bool:
    """Whether a run that has a checkpoint is under way."""
    begun = {path.parent.parent for path in storage.glob("runs/*/checkpoints/step-*.safetensors")}
    return any(not (run / "result.json").exists() for run in begun)


def _count(
    trial: dict[str, Any], before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Count in `trial` which results that were there `before` are lost or made again `now`; returns `now`."""
    trial["runs_lost"] += len(before.keys() - now.keys())
    trial["runs_repeated"] += sum(now[run] != times for run, times in before.items() if run in now)
    return now


def _compared(
    trial: dict[str, Any], storage: Path, undisturbed: Path, before: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    _count(trial, before, results_on(storage))
    made, expected = losses(storage), losses(undisturbed)
    if made.keys() != expected.keys():
        trial["problems"].append(f"{len(made)} of {len(expected)} runs are done")
    pairs = [pair for run in made for pair in zip(made[run], expected[run], strict=True)]
    trial["largest_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
    results = [json.loads(path.read_text()) for path in storage.glob("runs/*/result.json")]
    trial["resumed_runs"] = sum(result["provenance"].get("resumed_from_step", 0) > 0 for result in results)
    if list(storage.rglob(".writing-*")):
        trial["problems"].append("something half-written is left")
    is_equal = trial["largest_difference"] <= 1e-6
    trial["is_good"] = is_equal and not (trial["problems"] or trial["runs_lost"] or trial["runs_repeated"])
    return trial


def _write(rows: list[dict[str, Any]], seed: int) -> None:
    date = today()
    lines = [
        f"# Groups of workers killed at random moments, {date}",
        "",
        f"`python -m tests.slow group_faults`, seeds from {seed} on: four runs of two DeepSpeed workers (ZeRO",
        "2, FP32, CPU, a checkpoint every 10 of 60 steps) and two runs of one process. A trial is killed one to three",
        "times, launched again until it ends, and its losses (final and all of the curves) are compared with those of",
        "a study that was not disturbed. Largest difference: relative, over all of a row's losses.",
        "",
        *table("fault", COLUMNS, rows),
    ]
    write_result("group-faults", {"date": date, "first_seed": seed, "rows": rows}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
