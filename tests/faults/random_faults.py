"""Random damage to a finished study, and a storage that fills up at a random place."""

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.faults.trials import NUM_RUNS, STUDY, Trial, comparison, launch, results_on


def damaged(storage: Path, seed: int, reference: Any) -> Trial:
    """Three random files, of results, shards or the study, are cut, emptied or have a byte flipped."""
    moments, trial, before = random.Random(seed), Trial(disturbed=1), results_on(storage)
    files = sorted([*storage.glob("runs/*/result.json"), *storage.glob("shards/*/manifest.json")])
    files += [storage / "studies" / "tiny-features" / "study.json"]
    victims = moments.sample(files, 3)
    for path in victims:
        content = path.read_bytes()
        path.write_bytes(content[: moments.choice((0, moments.randrange(1, len(content) - 2)))])
    done = launch(storage)
    trial.check(done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-300:]}")
    after = results_on(storage)
    hit = {path.parent.name for path in victims}
    _compare(trial, {run: times for run, times in before.items() if run not in hit}, after)
    trial.check(len(after) == NUM_RUNS, f"{len(after)} of {NUM_RUNS} runs are done")
    trial.check(len(list(storage.rglob("*.bad-0"))) == 3, "not all that was damaged is kept aside")
    trial.is_equal = comparison(storage) == reference
    return trial


def full(storage: Path, seed: int, reference: Any) -> Trial:
    """A file system of random size or number of files fills up; then there is room. Takes root."""
    shutil.rmtree(storage)
    moments, trial = random.Random(seed), Trial(disturbed=1)
    limit = moments.choice((f"size={moments.randint(200, 2000)}k", f"nr_inodes={moments.randint(60, 700)}"))
    small = storage.with_name("small")
    small.mkdir()
    run = f"{sys.executable} -m raystudy run {STUDY} --local --workers 2 --storage {small}"
    script = f"mount -t tmpfs -o {limit} tmpfs {small} || exit 99\n{run}\ns=$?\ncp -a {small} {storage}\nexit $s"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100)
    trial.check(done.returncode == 3, f"{limit}: exit status {done.returncode}: {done.stderr[-300:]}")
    trial.check("Traceback" not in done.stderr, f"{limit}: a traceback")
    before = results_on(storage)
    again = launch(storage)
    trial.check(again.returncode == 0, f"{limit}: exit status {again.returncode}: {again.stderr[-300:]}")
    trial.check(not list(storage.rglob("*.bad-*")), f"{limit}: something half-written was taken for whole")
    _compare(trial, before, results_on(storage))
    trial.is_equal = comparison(storage) == reference
    return trial


def _compare(trial: Trial, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> None:
    trial.lost += len(before.keys() - after.keys())
    trial.repeated += sum(after[run] != times for run, times in before.items() if run in after)


RANDOM_KINDS = {"three damaged files": damaged, "storage full, then room": full}
