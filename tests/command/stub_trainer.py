"""A trainer without torch or raystudy, quick and deterministic: `stub_trainer.py SPEC [BEHAVIOUR]`.

Losses are a formula of learning rate, recipe and seed; BEHAVIOUR makes it misbehave in one way.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

QUALITY = {"clean": 2.0, "mixed": 2.2, "noisy": 2.6}


def loss_of(spec, step=None):
    """Lowest at learning rate 0.01; falls with the steps."""
    away = math.log10(spec["settings"]["lr"] / 0.01) ** 2
    late = 1.0 / (step or spec["settings"]["steps"])
    return QUALITY.get(spec["recipe"], 2.0) + 0.3 * away + 0.01 * spec["seed"] + late


def metrics(spec):
    rows = []
    for held in spec["validation"]:
        for step in spec["losses_after_steps"]:
            rows.append({"name": "loss", "dataset": held["name"], "value": loss_of(spec, step), "step": step})
    return rows


def result_of(spec):
    curve = [{"step": step, "loss": loss_of(spec, step)} for step in range(1, spec["settings"]["steps"] + 1)]
    about = {"format": "raystudy-result/1", "run_id": spec["run_id"], "status": "finished"}
    return {**about, "metrics": metrics(spec), "curve": curve, "provenance": {"trainer": "stub"}}


def write(spec, value):
    path = Path(spec["result"])
    path.with_suffix(".writing").write_text(value if isinstance(value, str) else json.dumps(value))
    path.with_suffix(".writing").replace(path)


def main(spec_path, behaviour="well"):
    spec = json.loads(Path(spec_path).read_text())
    out, result = Path(spec["out"]), result_of(spec)
    with (out / "attempts").open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('STUB')} {os.environ.get('OMP_NUM_THREADS')} {os.getcwd()}\n")
    num_attempts = len((out / "attempts").read_text().splitlines())
    print("stub: attempt", num_attempts)
    if behaviour == "exits-3":
        print("first line\nthe disk of node 7 is gone", file=sys.stderr)
        sys.exit(3)
    elif behaviour == "fails-twice" and num_attempts < 3:
        sys.exit(1)
    elif behaviour == "hangs":
        # A child in a session of its own, as launchers have them, that does not heed SIGTERM.
        code = "import os, signal, time; os.setsid(); signal.signal(15, signal.SIG_IGN); time.sleep(100)"
        child = subprocess.Popen([sys.executable, "-c", code])
        (out / "pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(100)
    elif behaviour == "no-result":
        return
    elif behaviour == "torn":
        write(spec, json.dumps(result)[:50])
        return
    elif behaviour == "nan":
        result["metrics"][0]["value"] = math.nan
    elif behaviour == "lacks-a-set":
        result["metrics"] = result["metrics"][:-1]
    elif behaviour == "wrong-set":
        result["metrics"][0]["dataset"] = "helt"
    elif behaviour == "other-run":
        result["run_id"] = "0" * 32
    elif behaviour == "unknown-key":
        result["metric"] = []
    elif behaviour == "other-unit":
        result["metrics"][0]["unit"] = "bits per token"
    elif behaviour == "sums-disagree":
        result["metrics"][0] |= {"loss_sum": [3.0, 4.0], "num_tokens": [1, 1]}
    elif behaviour == "twice":
        result["metrics"].append(result["metrics"][0])
    elif behaviour == "diverges":
        result |= {"status": "diverged", "metrics": [], "cause": "loss is nan at step 2"}
    elif behaviour == "no-memory":
        result |= {"status": "out-of-memory", "metrics": []}
    write(spec, result)
    if behaviour == "exits-4-after-its-result":
        sys.exit(4)


def call(job):
    """The same as a callable: returns its result."""
    assert job.lr == job.spec["settings"]["lr"]
    assert job.out.is_dir()
    result = result_of(job.spec)
    return {key: value for key, value in result.items() if key not in ("format", "run_id")}


if __name__ == "__main__":
    main(*sys.argv[1:])
