"""The tiny study with `--local` on S3 (a real server, moto's) while the storage fails; against the same on a folder.

    python -m tests.slow.failing_storage --trials 2

Result in docs/results/failing-storage-<date>.json and .md.
"""

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import Storage, open_storage
from raystudy.study.results import StudyResults
from tests.conftest import TINY, run_cli
from tests.faults.trials import without_seconds
from tests.object_store import BUCKET, ENVIRONMENT, SECRET, Proxy, s3_server
from tests.slow.results import table, today, write_result

_MOST_SECONDS = 560


def failing(proxy: Proxy, _: random.Random) -> None:
    """One call in five gets a 500, a 503 SlowDown or a closed connection, one in twenty of the others no answer."""
    proxy.faults.failing, proxy.faults.lost_answers = 0.2, 0.05


def gone(proxy: Proxy, draw: random.Random) -> None:
    """From a random moment on nothing answers for 60 s."""
    threading.Timer(draw.uniform(8.0, 20.0), proxy.faults.gone_for, (60.0,)).start()


def slow(proxy: Proxy, _: random.Random) -> None:
    """Every call takes 200 ms more."""
    proxy.faults.latency_seconds = 0.2


KINDS: dict[str, Callable[[Proxy, random.Random], None]] = {
    "20% of calls fail": failing,
    "gone for 60 s": gone,
    "200 ms latency": slow,
}


def comparison(storage: Storage) -> Any:
    """The study's comparison, worked out anew, without the time that runs took."""
    return without_seconds(StudyResults(storage, storage.study("tiny")).comparison_json)


def one(proxy: Proxy, name: str, seed: int, folder: Path, reference: Any) -> dict[str, Any]:
    """One launch under a fault, and the next one when it is over, which must find nothing to do."""
    uri, cache = f"s3://{BUCKET}/trial-{seed}-{time.time_ns()}", folder / f"cache-{seed}-{time.time_ns()}"
    proxy.faults.heal()
    KINDS[name](proxy, random.Random(seed))
    words = ("run", TINY, "--storage", uri, "--local", "--workers", "2")
    began = time.monotonic()
    done = run_cli(*words, timeout=_MOST_SECONDS, RAYSTUDY_CACHE=str(cache))
    seconds, calls = time.monotonic() - began, proxy.faults.calls.total()
    proxy.faults.heal()
    storage = open_storage(uri)
    before = {run_id: storage.runs.read(run_id) for run_id in storage.runs.started()}
    again = run_cli(*words, timeout=_MOST_SECONDS, RAYSTUDY_CACHE=str(cache))
    is_same = {run_id: storage.runs.read(run_id) for run_id in storage.runs.started()} == before
    told = done.stdout + done.stderr + again.stdout + again.stderr
    problems = [
        *([f"exit status {done.returncode}: {done.stderr[-500:]}"] if done.returncode else []),
        *([f"the next launch: exit status {again.returncode}"] if again.returncode else []),
        *([] if is_same and None not in before.values() else ["the next launch changed a record"]),
        *([] if comparison(storage) == reference else ["the comparison differs"]),
        *(["a traceback was shown"] if "Traceback" in told else []),
        *(["the secret was shown"] if SECRET in told else []),
    ]
    print(f"{name}: seed {seed}: {problems or 'good'}, {seconds:.0f} s, {calls} calls", flush=True)
    return {"seed": seed, "seconds": round(seconds), "calls": calls, "runs": len(before), "problems": problems}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.failing_storage")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="rs-storage-") as scratch, s3_server(Path(scratch) / "s3") as proxy:
        folder = Path(scratch)
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url})
        done = run_cli("run", TINY, "--storage", folder / "local", "--local", "--workers", "2", timeout=_MOST_SECONDS)
        assert done.returncode == 0, done.stderr
        reference = comparison(Storage(folder / "local"))
        for name in options.kinds:
            trials = [one(proxy, name, options.seed + n, folder, reference) for n in range(options.trials)]
            good = sum(not trial["problems"] for trial in trials)
            rows.append({"fault": name, "trials": len(trials), "good": good, "runs": trials[0]["runs"], "each": trials})
    document = {"date": today(), "study": "search_spaces/tiny.yaml", "seed": options.seed, "rows": rows}
    for row in rows:
        row["seconds"] = ", ".join(str(trial["seconds"]) for trial in row["each"])
    lines = [
        f"# The tiny study on S3 while it fails, {document['date']}",
        "",
        f"`python -m tests.slow.failing_storage --trials {options.trials} --seed {options.seed}`: the tiny study with "
        "`--local --workers 2` on moto's server behind a proxy. Good: exit status 0, the comparison digit for digit as "
        "on a folder, nothing changed by a second launch, no traceback, no secret.",
        "",
        *table("fault", ("trials", "good", "runs", "seconds"), rows),
    ]
    write_result("failing-storage", document, lines)
    return 0 if all(row["good"] == row["trials"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
