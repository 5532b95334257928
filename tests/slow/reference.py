"""DeepSpeed against `train/`: every family at every ZeRO stage in every precision, on two ranks of this machine's CPUs.

Differences go to docs/results/reference-<date>.json and .md.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.run import Means, train
from tests.conftest import make_shards
from tests.reference.cases import ALL_FAMILIES, PRECISIONS, STAGES, STEPS, a_family, told
from tests.reference.conftest import run_ranks
from tests.slow.results import today, write_result

# Most that a loss of the curve and the last validation loss may differ in FP32, relatively.
FP32 = (1e-4, 1e-4)
# In bf16 order alone changes losses, in one process too: so many times the most by which `train`'s own bf16 products
# differ between whole batches and parts.
TIMES = 3
PARTS = (1, 2, 3, 4)  # sequences
SECONDS = 3000


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="python -m tests.slow.reference", description=__doc__).parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rs-reference-") as folder:
        storage, out = Path(folder) / "storage", Path(folder) / "out"
        out.mkdir()
        view, validation = make_shards(storage)
        run_ranks(2, [str(storage), view, validation, str(out), "matrix"], SECONDS)
        rows = _rows(storage, view, validation, out)
    _write(rows, time.monotonic() - started)
    return 0 if all(row["good"] for row in rows) else 1


def _rows(storage: Path, digest: str, validation: str, out: Path) -> list[dict[str, Any]]:
    shard, view = open_tokens(storage, validation), open_view(storage, digest)
    documents = {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    rows = []
    for family, precision in itertools.product(ALL_FAMILIES, PRECISIONS):
        own = "bf16-autocast" if precision == "bf16-master" else precision
        run = a_family(digest, family, STEPS, precision=own).model_copy(update={"engine": "torch"})
        one = told(train(run, view, documents))
        itself = None
        if own != "fp32":
            means = [Means(count * run.model.context) for count in PARTS]
            itself = [differences(one, told(train(run, view, documents, means=each))) for each in means]
        for stage in STAGES:
            two = json.loads((out / f"{family}-{precision}-{stage}.json").read_text())
            row = {"family": family, "precision": precision, "stage": stage, **differences(one, two)}
            rows.append(judged(row, itself))
            print(rows[-1], flush=True)
    return rows


def differences(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """The largest relative differences of two outcomes; `whole`: both finished, with a row for every step."""
    steps = [a["step"] for a in one["curve"]] == [b["step"] for b in two["curve"]] == list(range(STEPS))
    pairs = list(zip(one["curve"], two["curve"], strict=True))
    return {
        "curve": max(abs(b["loss"] / a["loss"] - 1) for a, b in pairs),
        "gradient_norm": max(abs(b["gradient_norm"] / a["gradient_norm"] - 1) for a, b in pairs),
        "final": abs(two["final_loss"] / one["final_loss"] - 1),
        "whole": steps and one["status"] == two["status"] == "finished",
    }


def judged(row: dict[str, Any], itself: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The row with its band and whether it is in it; `itself`: by how much `train` differs from itself in bf16."""
    band = FP32 if itself is None else tuple(TIMES * max(d[name] for d in itself) for name in ("curve", "final"))
    is_good = row["whole"] and row["curve"] <= band[0] and row["final"] <= band[1]
    return {**row, "most_curve": band[0], "most_final": band[1], "good": is_good}


def _write(rows: list[dict[str, Any]], seconds: float) -> None:
    date = today()
    good = sum(row["good"] for row in rows)
    lines = [
        f"# DeepSpeed against train/, {date}",
        "",
        f"`python -m tests.slow.reference`: {STEPS} steps of a tiny decoder of each family by two ranks over gloo, a",
        "batch of seven sequences (shares of three and four, parts of two), against the same run by `train/` in",
        "one process. Largest relative difference of a loss of the curve, of a gradient's norm, and of the last",
        f"validation loss; bf16-master is compared with bf16-autocast there. Made in {seconds:.0f} s.",
        "",
        f"{good} of {len(rows)} are within their bands (in brackets): in FP32 {FP32[0]:g}; in bf16 {TIMES} times the",
        "most by which `train/` differs from itself in bf16-autocast when it takes the batch in parts of one to four",
        "sequences: a change of the order of sums alone. (Negative: bands of 5e-3 and 1e-3, fixed beforehand",
        "from the first family, did not hold for OPT in bf16, which differs from itself by up to 3.6e-3 and 1.4e-3.)",
        "",
        "| family | precision | ZeRO stage | curve | gradient norm | validation | good |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['family']} | {row['precision']} | {row['stage']} | {row['curve']:.1e} ({row['most_curve']:.1e}) "
            f"| {row['gradient_norm']:.1e} | {row['final']:.1e} ({row['most_final']:.1e}) "
            f"| {'yes' if row['good'] else 'NO'} |"
            for row in rows
        ),
    ]
    write_result("reference", {"date": date, "steps": STEPS, "rows": rows}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
