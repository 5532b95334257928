"""How many requests and seconds it takes to read a finished study from S3 at a distance, in three ways.

A real S3 server (moto's) on loopback behind a proxy that adds latency to every call and counts them (tests/
object_store.py). The records are PLANTED with made-up losses; nothing is trained. Every reading is a process of its
own; its seconds are those of reading the records alone. The server and the proxy are Python on the same cores, so the
seconds are upper bounds; the requests are exact. Writes one JSON file.

    python -m benchmarks.remote_reading --json benchmarks/results/remote-reading.json
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.large_ledger import plant, write_study
from raystudy.artifacts.storage import open_storage
from tests.object_store import BUCKET, ENVIRONMENT, s3_server

WAYS = {
    "one by one": "as before: every record by a call of its own, one after another",
    "together": "one listing, then many calls at a time",
    "compacted": "one listing, then the few files into which the driver copied the records",
}
_READ = """
import sys, time
from raystudy.artifacts import run_files
from raystudy.artifacts.storage import open_storage
from raystudy.study.results import StudyResults
if sys.argv[2] == "one by one":
    run_files.FEW = sys.maxsize
storage = open_storage(sys.argv[1])
began = time.perf_counter()
results = StudyResults(storage, storage.study("large"))
print(len(results.state.records), time.perf_counter() - began)
"""


def read(uri: str, way: str) -> tuple[int, float]:
    """Records and seconds of one reading in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _READ, uri, way], check=True, capture_output=True, text=True)
    records, seconds = done.stdout.split()
    return int(records), float(seconds)


def main() -> None:
    """Plant, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", type=int, default=5, help="times 200 runs")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before every answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    with TemporaryDirectory(prefix="raystudy-bench-") as scratch, s3_server(Path(scratch) / "s3") as proxy:
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url})
        study, uri = Path(scratch) / "large.yaml", f"s3://{BUCKET}/far"
        write_study(study, options.recipes)
        storage = open_storage(uri)
        num_records = plant(study, storage)
        for way in WAYS:
            if way == "compacted":
                proxy.faults.heal()
                wanted = sorted(storage.runs.started())
                began = time.perf_counter()
                storage.runs.files.compact(wanted, storage.study("large").compacted)
                rows["compaction"] = {"requests": dict(proxy.faults.calls), "seconds": time.perf_counter() - began}
            for _ in range(1 if way == "one by one" else options.repeats):
                proxy.faults.heal()
                proxy.faults.latency_seconds = options.latency
                found, seconds = read(uri, way)
                assert found == num_records, (found, num_records)
                row = rows.setdefault(way, {"what": WAYS[way], "seconds": []})
                row["requests"], row["num_requests"] = dict(proxy.faults.calls), proxy.faults.calls.total()
                row["seconds"].append(round(seconds, 3))
            print(way, json.dumps(rows[way]), flush=True)
    inputs = {"records": f"{num_records} PLANTED records, nothing trained", "latency_seconds": options.latency}
    inputs |= {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "server": "moto, on the same cores",
    }
    summary = {"inputs": inputs, "readings": rows, "load_average_at_end": os.getloadavg()}
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
