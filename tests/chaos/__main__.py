"""`python -m tests.chaos [ROW ...]`: faults on a Ray cluster of several nodes, at random moments from printed seeds.

Trials go to docs/results/cluster-chaos-<date>.json and .md. What the file of the day has is not made again, so that the
whole can be made in pieces. `--list` shows the rows.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos import buckets, jobs, kills, nodes, storages
from tests.chaos.cluster import Cluster, running
from tests.chaos.namespace import is_inside, run_inside
from tests.chaos.places import MEMORY, Bucket, in_memory
from tests.chaos.results import are_made, keep
from tests.chaos.trials import Seen, Stage, undisturbed

FOLDER_ROWS: dict[str, Callable[[Stage], Seen]] = {**kills.ROWS, **jobs.ROWS, **storages.ROWS, **nodes.ROWS}
ROWS = {**FOLDER_ROWS, **buckets.ROWS}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row, or part of its name (default: all)")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="start no trial after so long")
    parser.add_argument("--again", action="store_true", help="make trials anew that the file of the day has")
    parser.add_argument("--no-result", action="store_true", help="write no result file")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    chosen = [name for name in ROWS if not options.rows or any(part in name for part in options.rows)]
    if options.list or not chosen:
        print("\n".join(ROWS))
        return 0 if options.list else 2
    if not is_inside():
        return run_inside("tests.chaos", arguments).returncode
    made = set() if options.no_result or options.again else are_made()
    seeds = range(options.seed, options.seed + options.trials)
    todo = [(name, seed) for seed in seeds for name in chosen if (name, seed) not in made]
    deadline, bad = time.monotonic() + options.most_seconds, 0
    for rows, make_stages in ((FOLDER_ROWS, _in_folders), (buckets.ROWS, _in_buckets)):
        here = [(name, seed) for name, seed in todo if name in rows]
        if not here or time.monotonic() > deadline:
            continue
        with make_stages() as make_stage:
            for name, seed in here:
                if time.monotonic() < deadline:
                    seen = _trial(name, make_stage(seed))
                    bad += not seen.is_good
                    if not options.no_result:
                        keep(name, seen, list(ROWS))
    return 1 if bad else 0


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


def _trial(name: str, stage: Stage) -> Seen:
    """One trial, which leaves a cluster behind on which the next can go on."""
    try:
        seen = ROWS[name](stage)
    except Exception as error:  # it did not come to its end
        seen = stage.seen
        seen.check(False, f"{type(error).__name__}: {error}".replace(sys.executable, "python")[:2000])
    stage.place.remove()
    if not seen.is_good:
        stage.cluster.start()
    print(f"{name}: seed {seen.seed}: {'good' if seen.is_good else 'BAD'}: {seen}", flush=True)
    return seen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
