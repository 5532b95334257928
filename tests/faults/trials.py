"""Launches of the smallest study in processes of their own, disturbed at a random moment and launched again.

One trial of each kind runs among the tests; tests/slow/faults.py runs many, with other seeds.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.study.results import StudyResults
from tests.conftest import ROOT, run_cli

STUDY = ROOT / "search_spaces" / "tiny-features.yaml"
NUM_RUNS = 147
Times = dict[str, tuple[int, int]]


@dataclass
class Trial:
    """What a trial saw. `problems` is empty when everything that must hold held."""

    lost: int = 0
    repeated: int = 0
    is_equal: bool = True
    disturbed: int = 0  # how often the disturbance hit a launch that was at work
    problems: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.problems.append(what)

    @property
    def is_good(self) -> bool:
        return not self.problems and not self.lost and not self.repeated and self.is_equal


def start(storage: Path, *options: str, study: Path = STUDY, **environment: str) -> "subprocess.Popen[str]":
    """A launch with two workers."""
    words = [sys.executable, "-m", "raystudy", "run", str(study), "--storage", str(storage), "--local", *options]
    words += [] if "--workers" in options else ["--workers", "2"]
    pipe = subprocess.PIPE
    environment = {**os.environ, **environment}
    return subprocess.Popen(words, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=environment)


def launch(storage: Path, *options: str, study: Path = STUDY, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A launch until it ends."""
    driver = start(storage, *options, study=study, **environment)
    out, err = driver.communicate(timeout=110)
    return subprocess.CompletedProcess(driver.args, driver.returncode, out, err)


def results_on(storage: Path) -> Times:
    """Finished runs with when they were started (their spec is written anew at a start) and when they finished."""
    found = {}
    for entry in os.scandir(storage / "runs") if (storage / "runs").is_dir() else ():
        result = Path(entry.path) / "result.json"
        if result.exists():
            found[entry.name] = ((Path(entry.path) / "spec.json").stat().st_mtime_ns, result.stat().st_mtime_ns)
    return found


def wait_for_results(driver: "subprocess.Popen[str]", storage: Path, at_least: int) -> None:
    """Until so many runs have finished, or the launch has ended."""
    deadline = time.monotonic() + 60
    while len(results_on(storage)) < at_least and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def workers_of(pid: int) -> list[int]:
    """The driver's worker processes."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(name))
    return found


def wait_until_gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether all these processes end in time."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def comparison(storage: Path, name: str = "tiny-features") -> Any:
    """The study's comparison, worked out anew, without what may differ between executions."""
    folder = Storage(storage).study(name)
    return without_seconds(StudyResults(Storage(storage), folder).comparison_json)


def without_seconds(value: Any) -> Any:
    """A comparison, or a part of it, without the times that runs took."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if not key.endswith("_seconds")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def killed(storage: Path, seed: int, reference: Any, *, victims: str = "both", times: int = 1) -> Trial:
    """SIGKILL to the `driver`, a `worker` or `both`, `times` times in a row, then a launch that must finish."""
    moments, trial, before = random.Random(seed), Trial(), {}
    for number in range(times):
        driver = start(storage)
        most = NUM_RUNS - 5 if times == 1 else (number + 1) * (NUM_RUNS - 20) // times
        wait_for_results(driver, storage, moments.randint(0, most))
        time.sleep(moments.uniform(0, 0.03))
        workers = workers_of(driver.pid)
        trial.disturbed += driver.poll() is None
        if victims in ("worker", "both") and workers:
            kill(moments.choice(workers))
        if victims in ("driver", "both"):
            kill(driver.pid)
            driver.communicate()
            trial.check(wait_until_gone(workers), "a worker lived on after its driver")
            _compare_times(trial, before, before := results_on(storage))
        else:
            _, errors = driver.communicate(timeout=100)
            trial.check(driver.returncode == 0, f"a killed worker ended the launch: {errors[-300:]}")
    return _finish(trial, storage, before, reference)


def stopped(storage: Path, seed: int, reference: Any, *, number: int = signal.SIGINT) -> Trial:
    """Ctrl-C or SIGTERM, twice in a row, then a launch that must finish."""
    moments, trial = random.Random(seed), Trial()
    driver = start(storage)
    if moments.random() < 0.3:  # while it starts
        time.sleep(moments.uniform(0.25, 0.8))
    else:
        wait_for_results(driver, storage, moments.randint(0, NUM_RUNS - 5))
    workers = workers_of(driver.pid)
    is_at_work = driver.poll() is None
    started = time.monotonic()
    kill(driver.pid, number)
    time.sleep(moments.uniform(0, 0.05))
    kill(driver.pid, number)
    _, errors = driver.communicate(timeout=60)
    trial.check(time.monotonic() - started < 10, "it took more than 10 s to stop")
    trial.check(wait_until_gone(workers, 1.0), "a worker lived on after its driver")
    if is_at_work and driver.returncode:
        trial.disturbed += 1
        trial.check(driver.returncode == 128 + number, f"exit status {driver.returncode}: {errors[-300:]}")
        trial.check("the same command goes on" in errors, f"no way on is told: {errors[-300:]}")
    trial.check("Traceback" not in errors, f"a traceback: {errors[-600:]}")
    return _finish(trial, storage, results_on(storage), reference)


def two_studies(storage: Path, seed: int, reference: Any) -> Trial:
    """Two studies that share all runs, launched a random moment apart."""
    moments, trial = random.Random(seed), Trial()
    first = start(storage)
    time.sleep(moments.uniform(0, 1.2))
    second = start(storage, "--set", "name=other")
    for driver in (first, second):
        _, errors = driver.communicate(timeout=100)
        trial.check(driver.returncode == 0, f"exit status {driver.returncode}: {errors[-300:]}")
    trial.disturbed = 1
    trial = _finish(trial, storage, results_on(storage), reference)
    other = {**comparison(storage, "other"), "study": reference.get("study")}
    trial.check(len(results_on(storage)) == NUM_RUNS, "the studies did not share their runs")
    trial.check(other["comparisons"] == reference["comparisons"], "the other study's comparison differs")
    return trial


def two_drivers(storage: Path, seed: int, reference: Any) -> Trial:
    """A second driver while the first works, which is then killed: the second must take over."""
    moments, trial = random.Random(seed), Trial()
    first = start(storage)
    wait_for_results(first, storage, moments.randint(0, 60))
    second = start(storage)
    time.sleep(moments.uniform(0, 1.0))
    before: Times = {}
    if first.poll() is None:
        workers = workers_of(first.pid)
        trial.disturbed = 1
        kill(first.pid)
        wait_until_gone(workers)
    first.communicate()
    before = results_on(storage) if second.poll() is None else {}
    _, errors = second.communicate(timeout=100)
    trial.check(second.returncode == 0, f"the second driver ended with {second.returncode}: {errors[-300:]}")
    # What finished while we looked may have been made by the second driver: only lost results can be told apart.
    trial.lost += len(before.keys() - results_on(storage).keys())
    return _finish(trial, storage, results_on(storage), reference)


def _compare_times(trial: Trial, before: Times, after: Times) -> None:
    trial.lost += len(before.keys() - after.keys())
    trial.repeated += sum(after[run] != times for run, times in before.items() if run in after)


def _finish(trial: Trial, storage: Path, before: Times, reference: Any) -> Trial:
    """Launch until the end; nothing may be lost or repeated and the comparison must be that of no disturbance."""
    done = launch(storage)
    trial.check(done.returncode == 0, f"the last launch ended with {done.returncode}: {done.stderr[-300:]}")
    _compare_times(trial, before, after := results_on(storage))
    trial.check(len(after) == NUM_RUNS, f"{len(after)} of {NUM_RUNS} runs are done")
    trial.check(not list(storage.rglob(".writing-*")), "something half-written is left")
    trial.check(not list(storage.rglob("*.bad-*")), "something was taken for damaged")
    trial.is_equal = comparison(storage) == reference
    return trial


KINDS: dict[str, Callable[[Path, int, Any], Trial]] = {
    "SIGKILL driver": lambda *given: killed(*given, victims="driver"),
    "SIGKILL worker": lambda *given: killed(*given, victims="worker"),
    "SIGKILL both": lambda *given: killed(*given, victims="both"),
    "SIGKILL both, five times in a row": lambda *given: killed(*given, victims="both", times=5),
    "Ctrl-C": lambda *given: stopped(*given, number=signal.SIGINT),
    "SIGTERM": lambda *given: stopped(*given, number=signal.SIGTERM),
    "second driver takes over": two_drivers,
    "two studies sharing runs": two_studies,
}

__all__ = ["KINDS", "ROOT", "STUDY", "Trial", "comparison", "launch", "results_on", "run_cli", "start"]
