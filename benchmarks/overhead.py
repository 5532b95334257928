"""What a run costs beside its training: Ray Tune against --local, on runs of one step.

Each repeat makes the same runs twice, on fresh storages that share built shards, in alternating order. Overhead is
(wall time x slots - seconds inside runs) / runs; wall time is that of the whole command, start-up included, so it is
given for the whole launch and per run. Writes benchmarks/results/overhead.json.

    python benchmarks/overhead.py [--repeats 3] [--seeds 8]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "search_spaces" / "tiny.yaml"


def launch(storage: Path, seeds: int, *, local: bool) -> dict[str, float]:
    """Make the runs; wall seconds of the command, seconds inside runs, and how many there were."""
    numbers = json.dumps(list(range(seeds)))
    command = [sys.executable, "-m", "raystudy", "run", str(STUDY), "--storage", str(storage)]
    for key in ("training.steps=1", "models.target.training.steps=1"):
        command += ["--set", key]
    for protocol in ("truth", "ladder"):
        command += ["--set", f"protocols.{protocol}.seeds={numbers}"]
    started = time.perf_counter()
    subprocess.run([*command, *(["--local"] if local else [])], check=True, capture_output=True, cwd=ROOT)
    wall = time.perf_counter() - started
    results = [json.loads(path.read_text()) for path in storage.glob("runs/*/result.json")]
    return {"wall": wall, "inside": sum(r["seconds"]["total"] for r in results), "runs": len(results)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    slots = len(os.sched_getaffinity(0))
    raw: dict[str, list[dict[str, float]]] = {"local": [], "tune": []}
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "built-once"
        launch(built, 1, local=True)
        for repeat in range(options.repeats):
            for kind in ("local", "tune") if repeat % 2 == 0 else ("tune", "local"):
                storage = Path(scratch) / f"{kind}-{repeat}"
                storage.mkdir()
                for name in ("shards", "built"):
                    (storage / name).symlink_to(built / name)
                raw[kind].append(launch(storage, options.seeds, local=kind == "local"))
    per_run = {k: [(row["wall"] * slots - row["inside"]) / row["runs"] for row in rows] for k, rows in raw.items()}
    summary = {
        "inputs": {"study": STUDY.name, "runs": raw["local"][0]["runs"], "slots": slots, "machine": platform.machine()},
        "repeats": options.repeats,
        "median_overhead_seconds_per_run": {kind: statistics.median(values) for kind, values in per_run.items()},
        "median_wall_seconds": {kind: statistics.median(r["wall"] for r in rows) for kind, rows in raw.items()},
        "tune_over_local": statistics.median(t / n for t, n in zip(per_run["tune"], per_run["local"], strict=True)),
        "raw": raw,
    }
    print(json.dumps({key: value for key, value in summary.items() if key != "raw"}, indent=1))
    target = ROOT / "benchmarks" / "results" / "overhead.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
