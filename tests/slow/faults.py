"""Launches disturbed at random moments, many trials a row; counts go to docs/results/faults-<date>.json and .md.

A seed draws all moments of its trial; `python -m tests.slow.faults --seed S --trials 1` draws one again, as far as
processes can be.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.random_faults import RANDOM_KINDS
from tests.faults.trials import KINDS, Trial, comparison, launch
from tests.slow.results import table, today, write_result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.faults")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rs-faults-") as folder:
        undisturbed = Path(folder) / "undisturbed"
        done = launch(undisturbed)
        assert done.returncode == 0, done.stderr
        reference = comparison(undisturbed)
        rows = [
            _row(name, kind, options.seed, options.trials, undisturbed, reference)
            for name, kind in {**KINDS, **RANDOM_KINDS}.items()
        ]
    _write(rows, options.seed)
    return 0 if all(row["good"] == row["trials"] for row in rows) else 1


def _row(
    name: str, kind: Callable[..., Trial], seed: int, count: int, undisturbed: Path, reference: Any
) -> dict[str, Any]:
    started, trials = time.monotonic(), []
    for number in range(count):
        place = Path(tempfile.mkdtemp(prefix="rs-trial-"))
        storage = place / "storage"
        if name in RANDOM_KINDS:
            shutil.copytree(undisturbed, storage)
        trial = kind(storage, seed + number, reference)
        trials.append(trial)
        print(f"{name}: seed {seed + number}: {'good' if trial.is_good else trial}", flush=True)
        shutil.rmtree(place)
    return {
        "fault": name,
        "trials": count,
        "good": sum(trial.is_good for trial in trials),
        "disturbed_at_work": sum(trial.disturbed for trial in trials),
        "runs_lost": sum(trial.lost for trial in trials),
        "runs_repeated": sum(trial.repeated for trial in trials),
        "comparisons_equal": sum(trial.is_equal for trial in trials),
        "problems": [problem for trial in trials for problem in trial.problems],
        "seconds": round(time.monotonic() - started, 1),
    }


def _write(rows: list[dict[str, Any]], seed: int) -> None:
    date = today()
    columns = ("trials", "good", "disturbed_at_work", "runs_lost", "runs_repeated", "comparisons_equal", "seconds")
    lines = [
        f"# Faults at random moments, {date}",
        "",
        f"`make chaos` on `search_spaces/tiny-features.yaml` (147 runs, two workers), seeds from {seed} on. A trial is",
        "disturbed, launched again and compared, digit for digit, with a study that was not disturbed. Good: all that",
        "must hold held. Disturbed at work: how often the disturbance hit a launch that had not ended.",
        "",
        *table("fault", columns, rows),
    ]
    write_result("faults", {"date": date, "first_seed": seed, "rows": rows}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
