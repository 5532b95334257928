"""Slow check: the shipped random-feature study, over many draws of its design, against what theory says exactly.

`python -m tests.slow.known_truth` writes docs/results/known-truth-<date>.json and .md; its exit status is 1 if a
criterion fails. `--small` is what CI runs.
"""

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.known_truth.criteria import Criterion, criteria
from tests.known_truth.draw import Size, figures_of, loss_z_scores, run_draw
from tests.known_truth.one_step import flips_from_a_checkpoint, flips_from_zero
from tests.known_truth.page import page

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
SMALL = Size(num_seeds=2, many_seeds=20, every=2, every_with_many=7, batches=1000)
MANY_SEED_DRAWS = 2  # how many draws are run with many seeds as well


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 if all criteria hold, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.slow.known_truth", description=__doc__)
    parser.add_argument("--draws", type=int, default=10, help="draws of the design (default: 10)")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw (default: 0)")
    parser.add_argument("--small", action="store_true", help="every second recipe, two seeds, fewer batches")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--storage", type=Path, help="folder for the runs (default: one that is removed afterwards)")
    options = parser.parse_args(argv)
    size = SMALL if options.small else Size()
    numbers = range(options.first, options.first + options.draws)
    if options.storage:
        found, document, text = check(numbers, options.storage, size)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found, document, text = check(numbers, Path(folder), size)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"known-truth-{document['date']}"
    (options.out / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.out / f"{stem}.md").write_text(text, encoding="utf-8")
    for one in found:
        state = ("held" if one.held else "FAILED") if one.judged else "-"
        print(f"({one.part}) {state}: {one.statement}: {one.value} (bound: {one.bound})")
    print(f"written: {options.out / stem}.json and .md")
    return int(any(one.judged and not one.held for one in found))


def check(numbers: Sequence[int], storage: Path, size: Size) -> tuple[list[Criterion], dict[str, Any], str]:
    """Run the draws; criteria, the result file's content and its page."""
    many_seeds = []
    for number in numbers[: 1 if size.every > 1 else MANY_SEED_DRAWS]:
        z = loss_z_scores(run_draw(number, storage, size, with_many_seeds=True), "short")
        many_seeds.append({"draw": number, "seeds": size.many_seeds, "mean_z2": float((z**2).mean())})
    draws = []
    for number in numbers:
        draw = run_draw(number, storage, size)
        flips = flips_from_a_checkpoint(draw, size.batches)
        draws.append({**figures_of(draw), "flips": flips, "flips_from_zero": flips_from_zero(draw)})
    found = criteria(draws, many_seeds)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    document = {
        "format": "raystudy-known-truth/1",
        "date": date,
        "size": asdict(size),
        "criteria": [one.as_json() for one in found],
        "many_seeds": many_seeds,
        "draws": draws,
    }
    return found, document, page(date, asdict(size), draws, found)


if __name__ == "__main__":
    sys.exit(main())
