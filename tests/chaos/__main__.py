"""`python -m tests.chaos [ROW ...]`: faults on a Ray cluster of several nodes, at random moments from printed seeds.

Counts go to docs/results/cluster-chaos-<date>.json and .md; rows that were not run keep what the file of the day
says of them. `--list` shows the rows.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tests.chaos import jobs, kills, nodes, storages
from tests.chaos.cluster import Cluster
from tests.chaos.namespace import is_inside, run_inside
from tests.chaos.places import MEMORY, in_memory
from tests.chaos.trials import STUDY, Seen, Stage, undisturbed
from tests.conftest import ROOT
from tests.slow.results import table, today, write_result

_MOST_TOLD = 5  # lines of a trial that the result file keeps
ROWS: dict[str, Callable[[Stage], Seen]] = {**kills.ROWS, **jobs.ROWS, **storages.ROWS, **nodes.ROWS}


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
    expected = undisturbed(MEMORY / "undisturbed")
    cluster, is_good = Cluster(), True
    try:
        cluster.start()
        for name in chosen:
            row = _row(name, cluster, expected, range(options.seed, options.seed + options.trials))
            is_good &= row["good"] == row["trials"]
            if not options.no_result:
                _write(row, expected[1])
    finally:
        cluster.end()
    return 0 if is_good else 1


def _row(name: str, cluster: Cluster, expected: tuple[Any, int], seeds: range) -> dict[str, Any]:
    seen = []
    for seed in seeds:
        stage = Stage(cluster, in_memory(seed), expected, seed)
        try:
            one = ROWS[name](stage)
        except Exception as error:  # the trial did not come to its end: bad, and the next has a new cluster
            one = stage.seen
            one.check(False, f"{type(error).__name__}: {error}"[:2000])
        stage.place.remove()
        if not one.is_good:
            cluster.start()
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


def _write(row: dict[str, Any], num_runs: int) -> None:
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
        f"`make chaos` on `{STUDY}` ({num_runs} runs): a job over HTTP on a head and a node, of one CPU each, in",
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
