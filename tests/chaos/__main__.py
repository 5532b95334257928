"""`python -m tests.chaos [ROW ...]`: faults on a Ray cluster of several nodes, at random moments from printed seeds.

Counts go to docs/results/cluster-chaos-<date>.json and .md; rows that were not run keep what the file of the day
says of them. `--list` shows the rows.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tests.chaos import buckets, jobs, kills, nodes, storages
from tests.chaos.cluster import Cluster, running
from tests.chaos.namespace import is_inside, run_inside
from tests.chaos.places import MEMORY, Bucket, in_memory
from tests.chaos.trials import STUDY, Seen, Stage, undisturbed
from tests.conftest import ROOT
from tests.slow.results import table, today, write_result

_MOST_TOLD = 5  # lines of a trial that the result file keeps
FOLDER_ROWS: dict[str, Callable[[Stage], Seen]] = {**kills.ROWS, **jobs.ROWS, **storages.ROWS, **nodes.ROWS}
ROWS = {**FOLDER_ROWS, **buckets.ROWS}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row, or part of its name (default: all)")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--no-result", action="store_true", help="write no result file")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    chosen = [name for name in ROWS if not options.rows or any(part in name for part in options.rows)]
    if options.list or not chosen:
        print("\n".join(ROWS))
        return 0 if options.list else 2
    if not is_inside():
        return run_inside("tests.chaos", arguments).returncode
    is_good = True
    for name, rows in (("folder", FOLDER_ROWS), ("bucket", buckets.ROWS)):
        here = [row for row in chosen if row in rows]
        if here:
            with _in_folders() if name == "folder" else _in_buckets() as make_stage:
                for row in here:
                    is_good &= _take(row, make_stage, options)
    return 0 if is_good else 1


MakeStage = Callable[[int], Stage]


@contextmanager
def _in_folders() -> Iterator[MakeStage]:
    """A cluster, and stages whose place is a folder in memory."""
    expected = undisturbed(MEMORY / "undisturbed")
    with running(Cluster()) as cluster:
        yield lambda seed: Stage(cluster, in_memory(seed), expected, seed)


@contextmanager
def _in_buckets() -> Iterator[MakeStage]:
    """A cluster whose nodes reach a bucket by a proxy, and stages whose place is a folder of it."""
    expected = undisturbed(MEMORY / "smaller", buckets.SMALLER)
    with buckets.bucket_server(MEMORY / "server") as (proxy, environment):
        os.environ.update(environment)
        with running(Cluster(environment=environment, spares=[proxy.server_pid])) as cluster:
            yield lambda seed: Stage(
                cluster, Bucket(proxy, f"{seed}-{time.monotonic_ns()}"), expected, seed, buckets.SMALLER
            )


def _take(name: str, make_stage: MakeStage, options: argparse.Namespace) -> bool:
    """All trials of a row, and its place in the result file; whether all were good."""
    row = _row(name, make_stage, range(options.seed, options.seed + options.trials))
    if not options.no_result:
        _write(row)
    return bool(row["good"] == row["trials"])


def _row(name: str, make_stage: MakeStage, seeds: range) -> dict[str, Any]:
    seen = []
    for seed in seeds:
        stage = make_stage(seed)
        try:
            one = ROWS[name](stage)
        except Exception as error:  # the trial did not come to its end: bad, and the next has a new cluster
            one = stage.seen
            one.check(False, f"{type(error).__name__}: {error}"[:2000])
        stage.place.remove()
        if not one.is_good:
            stage.cluster.start()
        seen.append(one)
        print(f"{name}: seed {seed}: {'good' if one.is_good else 'BAD'}: {one}", flush=True)
    return {
        "fault": name,
        "trials": len(seen),
        "good": sum(one.is_good for one in seen),
        "disturbed_at_work": sum(one.disturbed for one in seen),
        "runs_lost": sum(one.lost for one in seen),
        "runs_repeated": sum(one.repeated for one in seen),
        "comparisons_equal": sum(one.is_equal for one in seen),
        "exit_and_job_status": ", ".join(sorted({one.ends[0] for one in seen if one.ends})),
        "lines_told": max(one.num_lines for one in seen),
        "seconds": round(sum(one.seconds for one in seen), 1),
        "message": next((one.message for one in seen if one.message), ""),
        "first_seed": seeds.start,
        "all": [{**asdict(one), "told": one.told[:_MOST_TOLD]} for one in seen],
    }


def _write(row: dict[str, Any]) -> None:
    date = today()
    path = ROOT / "docs" / "results" / f"cluster-chaos-{date}.json"
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    by_name = {each["fault"]: each for each in [*old, {**row, "made": time.strftime("%H:%M UTC", time.gmtime())}]}
    rows = [by_name[name] for name in ROWS if name in by_name]
    columns = ("trials", "good", "disturbed_at_work", "runs_lost", "runs_repeated", "comparisons_equal")
    columns += ("exit_and_job_status", "lines_told", "seconds")
    missing = [name for name in ROWS if name not in by_name]
    lines = [
        f"# Faults on a Ray cluster, {date}",
        "",
        f"`make chaos` on `{STUDY}`: a job over HTTP on a head and a node, of one CPU each, in",
        "network, process and mount namespaces of their own. A trial is disturbed at a random moment, submitted again",
        "and compared, digit for digit, with a study that was not disturbed. Good: nothing lost or repeated, equal, an",
        "exit status that says what became of the job, one message where a launch does not succeed, no traceback.",
        "Statuses are those of the disturbed job: the follower's exit and the job's. Lines told: at the most, beside",
        "progress and Ray's own. Moments and messages of every trial are in the JSON file.",
        "",
        *table("fault", columns, rows),
        "",
        *(f"- {each['fault']}: {problem}" for each in rows for one in each["all"] for problem in one["problems"]),
        *([f"Not run: {', '.join(missing)}."] if missing else []),
    ]
    write_result("cluster-chaos", {"date": date, "rows": rows}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
