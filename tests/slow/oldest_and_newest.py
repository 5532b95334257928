"""The oldest and the newest Ray that are supported: the tiny study on a cluster of its own, and a job on two nodes.

`--python` names environments that hold one Ray each (this one's packages are added after theirs); without it the oldest
is installed into one for the time of the check. Leaves docs/results/ray-versions-<date>.json. Takes root.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.faults.trials import comparison
from tests.slow.results import table, today, write_result
from tests.slow.trackers import beside_ours

OLDEST = "ray[default,train,tune]==2.58.1"
_VERSIONS = "import platform, ray, torch; print(ray.__version__, torch.__version__, platform.python_version())"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.oldest_and_newest", description=__doc__)
    parser.add_argument("--python", type=Path, action="append", help="of an environment to check, oldest Ray first")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rs-ray-") as folder:
        place = Path(folder)
        pythons = options.python or [_with_oldest(place / "venv"), Path(sys.executable)]
        rows: list[dict[str, Any]] = []
        for number, python in enumerate(pythons):
            if python != Path(sys.executable):
                beside_ours(python)
            rows += _checked(python, place / f"storage-{number}")
        comparisons = [comparison(path) for path in sorted(place.glob("storage-?"))]
    is_equal = all(each == comparisons[0] for each in comparisons)
    date = today()
    lines = [
        f"# The oldest and the newest Ray, {date}",
        "",
        "Made by `python -m tests.slow oldest_and_newest`. Studies on a cluster of its own; then a job over HTTP on a",
        "head and a node, and the same job again, which finds nothing to do (`python -m tests.chaos 'no fault'`).",
        f"The comparisons of the first are equal, digit for digit, with all: {'yes' if is_equal else 'NO'}.",
        "",
        *table("command", ("ray", "torch", "python", "good", "seconds"), rows),
    ]
    write_result("ray-versions", {"date": date, "comparisons_equal": is_equal, "rows": rows}, lines)
    return 0 if is_equal and all(row["good"] for row in rows) else 1


def _with_oldest(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", OLDEST], check=True)
    return python


def _checked(python: Path, storage: Path) -> list[dict[str, Any]]:
    told = subprocess.run([str(python), "-c", _VERSIONS], capture_output=True, text=True, check=True).stdout.split()
    about = dict(zip(("ray", "torch", "python"), told, strict=True))
    study = ["-m", "raystudy", "run", "search_spaces/tiny-features.yaml", "--storage", str(storage)]
    decoders = ["-m", "raystudy", "run", "search_spaces/tiny.yaml", "--storage", f"{storage}-decoders"]
    job = ["-m", "tests.chaos", "no fault", "--trials", "1", "--no-result"]
    rows = []
    for words in (study, decoders, job):
        started = time.monotonic()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY")}
        own = {**kept, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(storage.parent)}
        done = subprocess.run([str(python), *words], cwd=ROOT, env=own, capture_output=True, text=True, timeout=600)
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:])
        shown = " ".join(words[1:3]) + f" {words[3]}"
        rows.append({"command": shown, **about, "good": done.returncode == 0})
        rows[-1]["seconds"] = round(time.monotonic() - started, 1)
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
