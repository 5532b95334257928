"""A study on servers of S3 and Google Cloud Storage, its driver and a worker killed at random; other nodes go on.

A node is a cache of its own. Nothing finished may be lost or made anew, the comparison must be that of a local storage
digit for digit, and no process may fetch what its node has. Of two launches at once one works; the other is told who
holds the study. Leaves docs/results/remote-storage-<date>.json and .md.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import Storage, open_storage
from raystudy.errors import StudyHeldError
from raystudy.specs.load import load_study
from raystudy.study.results import StudyResults
from tests.conftest import ROOT
from tests.execute.test_budgets import the_study
from tests.faults.trials import kill, without_seconds, workers_of
from tests.google_store import ENVIRONMENT as GOOGLE_ENVIRONMENT
from tests.google_store import google_server
from tests.object_store import BUCKET, ENVIRONMENT, s3_server
from tests.slow.results import table, today, write_result

NODES = 3  # of each trial: two whose driver and a worker are killed, and one that goes on to the end
SERVERS = {
    "s3": (s3_server, ENVIRONMENT, "AWS_ENDPOINT_URL"),
    "gs": (google_server, GOOGLE_ENVIRONMENT, "STORAGE_EMULATOR_HOST"),
}
_FETCHED = re.compile(r"fetched (\S+) \(([0-9,]+) bytes\)")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.remote_storage")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = the_study(folder)
        local = Storage(folder / "storage")
        _finish(study, str(local.root), folder / "none", workers=2)
        wanted = _comparison(study, local)
        rows = [row for kind in options.kinds for row in _rows(kind, study, folder / kind, options.trials, wanted)]
    document = {"date": today(), "nodes_of_a_trial": NODES, "trials": rows}
    columns = [key for key in rows[0] if key != "seed"]
    lines = [
        f"# A study on S3 and Google Cloud Storage, killed on two nodes and finished on a third, {document['date']}",
        "",
        "moto's server (s3) and fake-gcs-server (gs) over HTTP on the same cores, each behind a proxy that also stands "
        "in for conditions that the server leaves out; see tests/object_store.py and tests/google_store.py.",
        "",
        *table("seed", columns, rows),
    ]
    write_result("remote-storage", document, lines)
    return 0 if all(_is_good(row) for row in rows) else 1


def _rows(kind: str, study: Path, folder: Path, trials: int, wanted: Any) -> list[dict[str, Any]]:
    start, environment, endpoint = SERVERS[kind]
    rows = []
    with start(folder / "server") as server:
        os.environ |= {**environment, endpoint: server.url}
        for seed in range(trials):
            before = server.faults.calls.total()
            uri = f"{kind}://{BUCKET}/trial-{seed}"
            row = {"kind": kind, **_trial(study, uri, folder / f"trial-{seed}", seed, wanted)}
            row["calls"] = server.faults.calls.total() - before
            row["of_two_one_worked"] = _of_two_one_works(study, f"{uri}-two", folder / f"two-{seed}", wanted)
            rows.append(row)
            print(row, flush=True)
    return rows


def _of_two_one_works(study: Path, uri: str, folder: Path, wanted: Any) -> bool:
    """Two launches at once on different nodes, neither of which waits for the other."""
    both = [_start(study, uri, folder / f"{n}", 1, folder / f"log-{n}", "--no-wait") for n in range(2)]
    statuses = sorted(driver.wait(280) for driver in both)
    return statuses == [0, StudyHeldError.exit_status] and bool(_comparison(study, open_storage(uri)) == wanted)


def _is_good(row: dict[str, Any]) -> bool:
    is_right = row["same_comparison"] and row["of_two_one_worked"]
    return bool(is_right and not row["lost"] and not row["changed"] and not row["fetched_twice"])


def _trial(study: Path, uri: str, folder: Path, seed: int, wanted: Any) -> dict[str, Any]:
    moments, storage = random.Random(seed), open_storage(uri)
    row: dict[str, Any] = {"seed": seed, "killed_after": [], "lost": 0, "changed": 0, "fetched_twice": 0, "fetches": 0}
    for node in range(NODES):
        before = _results(storage)
        if node < NODES - 1:
            log = folder / f"log-{node}"
            row["killed_after"].append(_killed(study, uri, folder / f"node-{node}", log, storage, moments))
            said = log.read_text()
        else:
            started = time.monotonic()
            said = _finish(study, uri, folder / f"node-{node}", workers=2)
            row["last_node_seconds"] = round(time.monotonic() - started, 1)
        after = _results(storage)
        row["lost"] += len(before.keys() - after.keys())
        row["changed"] += sum(after.get(run) != content for run, content in before.items())
        fetched = Counter(found[1] for found in _FETCHED.finditer(said))
        row["fetches"] += fetched.total()
        row["fetched_twice"] += sum(count > 1 for count in fetched.values())
    row["same_comparison"] = _comparison(study, storage) == wanted
    return row


def _start(study: Path, storage: str, cache: Path, workers: int, log: Path, *more: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "raystudy", "run", str(study), "--local", "--workers", str(workers)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        environment = {**os.environ, "RAYSTUDY_CACHE": str(cache)}
        return subprocess.Popen(
            [*words, "--storage", storage, *more], cwd=ROOT, env=environment, stdout=file, stderr=file
        )


def _finish(study: Path, storage: str, cache: Path, workers: int) -> str:
    """A launch to its end; what it said."""
    log = cache.with_name(f"{cache.name}.log")
    driver = _start(study, storage, cache, workers, log)
    status, said = driver.wait(280), log.read_text()
    assert status == 0, said
    return said


def _killed(study: Path, uri: str, cache: Path, log: Path, storage: Storage, moments: random.Random) -> int:
    """SIGKILL to the driver and a worker of a launch once it has made some runs; how many there were then."""
    driver, before = _start(study, uri, cache, 2, log), len(_results(storage))
    enough = before + moments.randint(0, 4)
    while driver.poll() is None and len(_results(storage)) < enough:
        time.sleep(0.1)
    time.sleep(moments.uniform(0, 1))
    workers = workers_of(driver.pid)
    kill(driver.pid)
    if workers:
        kill(moments.choice(workers))
    driver.wait(30)
    return len(_results(storage))


def _results(storage: Storage) -> dict[str, Any]:
    """The results there are, by run."""
    found = {run: storage.runs.read(run) for run in storage.runs.started()}
    return {run: record.result for run, record in found.items() if record is not None}


def _comparison(study: Path, storage: Storage) -> Any:
    return without_seconds(StudyResults(storage, storage.study(load_study(study).spec.name)).comparison_json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
