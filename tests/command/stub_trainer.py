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


def spoil(result, behaviour):
    """Change a good result in one way."""
    row = result["metrics"][0]
    changes = {
        "nan": lambda: row.update(value=math.nan),
        "lacks-a-set": lambda: result["metrics"].pop(),
        "wrong-set": lambda: row.update(dataset="helt"),
        "other-run": lambda: result.update(run_id="0" * 32),
        "unknown-key": lambda: result.update(metric=[]),
        "other-unit": lambda: row.update(unit="bits per token"),
        "sums-disagree": lambda: row.update(loss_sum=[3.0, 4.0], num_tokens=[1, 1]),
        "twice": lambda: result["metrics"].append(row),
        "diverges": lambda: result.update(status="diverged", metrics=[], cause="loss is nan at step 2"),
        "no-memory": lambda: result.update(status="out-of-memory", metrics=[]),
    }
    changes.get(behaviour, lambda: None)()


def hang(out):
    """For long, with a child in a session of its own, as launchers have them, that does not heed SIGTERM."""
    code = "import os, signal, time; os.setsid(); signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    (out / "pids.writing").write_text(f"{os.getpid()} {child.pid}")
    (out / "pids.writing").replace(out / "pids")
    time.sleep(100)


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
    if behaviour == "fails-twice" and num_attempts < 3:
        sys.exit(1)
    if behaviour == "hangs":
        hang(out)
    spoil(result, behaviour)
    if behaviour != "no-result":
        write(spec, json.dumps(result)[:50] if behaviour == "torn" else result)
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
