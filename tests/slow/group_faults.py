"""Launches of a study of two DeepSpeed workers, killed at random moments; counts in docs/results/group-faults-<date>.

A trial kills the driver, a worker, both, or the driver and all workers at once, once or twice, launches again, and
compares every loss with those of a study that was not disturbed. It does so with processes of one machine (--local) and
on a Ray cluster, where Ray Train starts the workers. A seed draws all moments of its trial, as far as processes can be
drawn again. With `--keep FOLDER` trials that an earlier call made there count, so that the check can be made in pieces.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, run_cli
from tests.execute.test_local import copy_inputs, results_on
from tests.faults.trials import kill, wait_until_gone
from tests.ray_cluster import running_cluster
from tests.reference.test_group_studies import STUDY, command_of, losses, ranks_of
from tests.slow.results import table, today, write_result

WHERE = ("--local", "Ray")
VICTIMS = ("a worker", "the driver", "both", "all at once")  # both: the driver and one worker
_LAST_SECONDS = 5.0  # by when a kill comes that is to hit any part of a group's life
_LEAST_DIFFERENCE = 1e-6
COLUMNS = ("trials", "good", "kills", "resumed_runs", "runs_lost", "runs_repeated", "largest_difference", "seconds")
_SUMS = ("kills", "resumed_runs", "runs_lost", "runs_repeated")


@dataclass(frozen=True)
class Place:
    """Where launches are made: their options and environment, and the ranks of a launch by its driver's process id."""

    name: str
    options: tuple[str, ...]
    environment: Mapping[str, str]
    ranks: Callable[[int], list[int]]
    seconds_to_end: float  # that ranks may take after their driver


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    kept = Path(options.keep or tempfile.mkdtemp(prefix="rs-group-faults-"))
    try:
        kept.mkdir(parents=True, exist_ok=True)
        study = _undisturbed(kept)
        made, left = _trials_on(kept), options.most_now
        for where in options.where or WHERE:
            with _place(where, lacking=bool(left) and bool(list(_lacking(options, where, made)))) as place:
                for name, seed in _lacking(options, where, made)[:left]:
                    trial = {"fault": name, "seed": seed, **_trial(seed, name, place, kept, study)}
                    print(trial, flush=True)
                    with (kept / "trials.jsonl").open("a") as file:
                        file.write(json.dumps(trial) + "\n")
                    made, left = [*made, trial], left - 1
    finally:
        if options.keep is None:
            shutil.rmtree(kept, ignore_errors=True)
    rows = _rows(made)
    _write(rows, options.seed)
    return 0 if rows and all(row["good"] == row["trials"] for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.group_faults")
    parser.add_argument("--trials", type=int, default=5, help="of each kind of fault in each place")
    parser.add_argument("--seed", type=int, default=3000, help="of the first trial of each kind")
    parser.add_argument("--where", action="append", choices=WHERE, help="only there (default: both)")
    parser.add_argument("--keep", metavar="FOLDER", help="where trials are kept, and taken from if made before")
    parser.add_argument(
        "--most-now", type=int, default=10**6, metavar="N", help="make no more than N trials in this call"
    )
    return parser


def _undisturbed(kept: Path) -> Path:
    """Make the study that is compared with, once; the study's file."""
    study = kept / "groups.yaml"
    if not (kept / "undisturbed").exists():
        study.write_text(STUDY)
        done = run_cli("run", study, "--storage", kept / "making", "--local", timeout=600)
        assert done.returncode == 0, done.stderr
        (kept / "making").rename(kept / "undisturbed")
    return study


def _trials_on(kept: Path) -> list[dict[str, Any]]:
    path = kept / "trials.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _lacking(options: argparse.Namespace, where: str, made: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Faults and seeds of the trials to make there, one of each kind after another."""
    known = {(trial["fault"], trial["seed"]) for trial in made}
    names = [f"{where}: SIGKILL {victim}" for victim in VICTIMS]
    wanted = [(name, options.seed + number) for number in range(options.trials) for name in names]
    return [trial for trial in wanted if trial not in known]


@contextmanager
def _place(where: str, *, lacking: bool) -> Iterator[Place]:
    if where == "--local" or not lacking:
        yield Place(where, ("--local",), {}, ranks_of, 10.0)
        return
    with running_cluster() as environment:
        sessions = _sessions_of(environment["RAY_TMPDIR"])
        # Ray ends the workers of a driver that has gone when it sees that, within some seconds.
        yield Place(where, (), environment, lambda _: _ranks_of_ray(sessions), 60.0)


def _processes() -> Iterator[int]:
    yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def _sessions_of(folder: str) -> set[int]:
    """The process sessions of the cluster whose files are in `folder`, one of each node."""
    return {_session(pid) for pid in _processes() if pid != os.getpid() and folder in command_of(pid)} - {0}


def _ranks_of_ray(sessions: set[int]) -> list[int]:
    """The workers that Ray Train has started there and that are at work or waiting for it."""
    return [pid for pid in _processes() if "RayTrainWorker" in command_of(pid) and _session(pid) in sessions]


def _session(pid: int) -> int:
    """The process's session; 0 once it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _trial(seed: int, name: str, place: Place, kept: Path, study: Path) -> dict[str, Any]:
    moments, started = random.Random(seed), time.monotonic()
    storage = copy_inputs(kept / "undisturbed", Path(tempfile.mkdtemp(dir=kept)) / "storage")
    trial: dict[str, Any] = {"kills": 0, "runs_lost": 0, "runs_repeated": 0, "problems": []}
    before: dict[str, tuple[int, int]] = {}
    words = [sys.executable, "-m", "raystudy", "run", str(study), "--storage", str(storage), *place.options]
    environment = {**os.environ, **place.environment}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for _ in range(moments.randint(1, 2)):
        driver = subprocess.Popen(words, cwd=ROOT, env=environment, **quiet)
        ranks = _wait(driver, storage, moments, place)
        for victim in _victims(name, driver.pid, ranks, moments):
            kill(victim)
            trial["kills"] += 1
        driver.wait(600)
        if not wait_until_gone(ranks, place.seconds_to_end):
            trial["problems"].append("a rank lived on")
        before = _count(trial, before, results_on(storage))
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        trial["problems"].append(f"exit status {done.returncode}: {done.stderr[-300:]}")
    compared = _compared(trial, storage, kept / "undisturbed", before)
    shutil.rmtree(storage.parent)
    return compared | {"seconds": round(time.monotonic() - started, 1)}


def _victims(name: str, driver: int, ranks: list[int], moments: random.Random) -> list[int]:
    """Whom the fault of this name kills, in order."""
    victim = name.partition("SIGKILL ")[2]
    if victim == "all at once":
        return [driver, *ranks]
    worker = [moments.choice(ranks)] if ranks and victim in ("a worker", "both") else []
    return [*worker, *([driver] if victim in ("the driver", "both") else [])]


def _wait(driver: "subprocess.Popen[bytes]", storage: Path, moments: random.Random, place: Place) -> list[int]:
    """The ranks at a drawn moment: of a group's life as a whole or, in half of the trials, soon after a checkpoint."""
    at_least, in_run = moments.randint(0, 3), moments.random() < 0.5
    seconds = moments.uniform(0.0, 0.5 if in_run else _LAST_SECONDS)
    deadline = time.monotonic() + 600
    while len(results_on(storage)) < at_least or not place.ranks(driver.pid) or (in_run and not _in_run(storage)):
        if driver.poll() is not None or time.monotonic() > deadline:
            return []
        time.sleep(0.02)
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(place.ranks(driver.pid)) == 2 and driver.poll() is None:
        time.sleep(0.02)
    return place.ranks(driver.pid)


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
    is_equal = trial["largest_difference"] <= _LEAST_DIFFERENCE
    trial["is_good"] = is_equal and not (trial["problems"] or trial["runs_lost"] or trial["runs_repeated"])
    return trial


def _rows(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind of fault in each place of which there are trials."""
    rows = []
    for name in (f"{where}: SIGKILL {victim}" for where in WHERE for victim in VICTIMS):
        trials = [trial for trial in made if trial["fault"] == name]
        if trials:
            row = {"fault": name, "trials": len(trials), "good": sum(trial["is_good"] for trial in trials)}
            row |= {key: sum(trial[key] for trial in trials) for key in _SUMS}
            row["largest_difference"] = max(trial["largest_difference"] for trial in trials)
            row["problems"] = [problem for trial in trials for problem in trial["problems"]]
            rows.append({**row, "seconds": round(sum(trial["seconds"] for trial in trials), 1)})
    return rows


def _write(rows: list[dict[str, Any]], seed: int) -> None:
    date = today()
    lines = [
        f"# Groups of workers killed at random moments, {date}",
        "",
        f"`python -m tests.slow group_faults`, seeds of each row from {seed} on: four runs of two DeepSpeed workers",
        "(ZeRO 2, FP32, CPU, a checkpoint every 10 of 60 steps) and two runs of one process. A trial is killed once or",
        "twice, launched again until it ends, and its losses (final and all of the curves) are compared with those of",
        "a study that was not disturbed, made with --local. Both: the driver and one worker. All at once: the driver",
        "and all workers. Under Ray the cluster itself is left alone. Largest difference: relative, over all losses of",
        "a row. A trial is good if that is at most 1e-6, nothing was lost, made again or left half-written, and all",
        "ended well.",
        "",
        *table("fault", COLUMNS, rows),
    ]
    write_result("group-faults", {"date": date, "first_seed": seed, "rows": rows}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
