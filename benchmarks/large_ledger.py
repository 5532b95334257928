"""How long the commands on a finished study take when its ledger holds 20,000 records.

The records are PLANTED: written through the real ledger with made-up losses; nothing is trained. Each command is a
process of its own and counts whole, start-up included. Writes one JSON file.

    python benchmarks/large_ledger.py --json benchmarks/results/large-ledger.json
    python benchmarks/large_ledger.py --keep /FOLDER     # plants there, or uses what is there
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from raystudy.artifacts.storage import Storage
from raystudy.execute.inputs import find_inputs
from raystudy.specs.load import load_study
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave

NUM_RECIPES, NUM_LRS, NUM_SEEDS = 100, 20, 5  # times two models: 20,000 runs


def write_study(path: Path, num_recipes: int) -> None:
    """A study of random-feature models: a tuned truth, a ladder, a standard and a reduced learning rate."""
    generator = np.random.default_rng(0)
    weights = generator.dirichlet([1.0, 1.0, 1.0], size=num_recipes).round(6)
    recipes = [
        {"name": f"mix-{place:03}", "kind": "synthetic", "dimension": "domain mixture"}
        | {"weights": dict(zip(("a", "b", "c"), map(float, row), strict=True))}
        for place, row in enumerate(weights)
    ]
    space = {"lr": {"grid": [float(f"{lr:.3g}") for lr in np.geomspace(1e-4, 1.0, NUM_LRS)]}}
    seeds = list(range(NUM_SEEDS))
    rule = {"baseline": "mix-000", "space": space}
    study = {
        "format": "raystudy-study/1",
        "name": "large",
        "recipes": recipes,
        "synthetic": {
            "inputs": 16,
            "domains": {"a": {"exponent": 1.0}, "b": {"exponent": 1.2}, "c": {"exponent": 1.4}},
        },
        "validation": {name: {"source": {"kind": "synthetic", "domain": name}} for name in "abc"},
        "models": {
            "proxy": {"kind": "random-features", "features": 4, "training": {"steps": 5}},
            "target": {"kind": "random-features", "features": 8, "training": {"steps": 9}},
        },
        "protocols": {
            "truth": {"kind": "tuned", "model": "target", "space": space, "seeds": seeds},
            "standard": {"kind": "standard-lr", "model": "proxy", "lr": {"ratio": 1, **rule}, "seeds": seeds},
            "reduced": {"kind": "reduced-lr", "model": "proxy", "lr": {"ratio": 0.1, **rule}, "seeds": seeds},
            "ladder": {"kind": "lr-ladder", "model": "proxy", "space": space, "seeds": seeds},
        },
        "truth": "truth",
        "comparison": {"contrast": ["reduced", "standard"]},
    }
    path.write_text(yaml.safe_dump(study, sort_keys=False))


def plant(study: Path, storage: Storage) -> int:
    """Write a record for every run that the study wants, wave after wave; their number."""
    loaded = load_study(study)
    storage.prepare()
    inputs = find_inputs(loaded.spec, storage)
    stored = {"shards": inputs.shards, "validation": inputs.validation, "vocabulary": inputs.vocabulary}
    storage.study(loaded.spec.name).write_study(loaded, stored)
    quality = {name: place / len(inputs.shards) for place, name in enumerate(inputs.shards)}
    records: dict[str, Any] = {}
    while todo := make_wave(StudyState(loaded.spec, inputs, records)).todo:
        for run in todo:
            noise = np.random.default_rng(int(run.run_id[:8], 16)).normal(0, 0.02)
            loss = 2.0 + quality[run.recipe] + 0.1 * np.log10((run.lr or 1.0) / 0.02) ** 2 + noise
            about = {"unit": "nats per token", "direction": "lower-is-better"}
            metrics = [
                {"name": name, "dataset": digest, "dataset_name": dataset, "value": value, **about}
                for dataset, digest in inputs.validation.items()
                for name, value in (("initial-loss", 4.0), ("unigram-loss", 3.5), ("loss", loss), ("floor", 1.0))
            ]
            result = {"status": "finished", "spec": run.run.model_dump(mode="json"), "metrics": metrics}
            result |= {"num_tokens": run.run.num_tokens, "seconds": {"total": 0.1}, "provenance": {"planted": True}}
            storage.runs.write_result(run.run_id, result)
        records |= storage.runs.read_all({run.run_id: run.run for run in todo})
    return len(records)


def seconds(*arguments: object) -> dict[str, float]:
    """One command of raystudy in a process of its own: wall time, and CPU time, which others' load disturbs less."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "raystudy", *map(str, arguments)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - started, "cpu": cpu}


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {clock: float(np.median([row[clock] for row in rows])) for clock in ("wall", "cpu")}


def main() -> None:
    """Plant, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", type=int, default=NUM_RECIPES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--verbs", nargs="+", choices=("run", "plan", "compare"), default=["run", "plan"])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="raystudy-bench-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        study, storage = folder / "large.yaml", folder / "storage"
        if not study.exists():
            write_study(study, options.recipes)
            plant(study, Storage(storage))
        num_records = sum(1 for _ in (storage / "runs").iterdir())
        commands = {"run": ["--local"], "plan": [], "compare": []}
        raw = {
            verb: [seconds(verb, study, "--storage", storage, *commands[verb]) for _ in range(options.repeats)]
            for verb in options.verbs
        }
    inputs = {"records": f"{num_records} PLANTED records, nothing trained", "recipes": options.recipes}
    inputs |= {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine()}
    summary = {"inputs": inputs, "median_seconds": {verb: _medians(rows) for verb, rows in raw.items()}}
    summary |= {"load_average_at_end": os.getloadavg(), "raw": raw}
    print(json.dumps(summary, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
