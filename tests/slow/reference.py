"""DeepSpeed against `train/`: every family at every ZeRO stage in every precision, on two ranks of this machine's CPUs.

Differences go to docs/results/reference-<date>.json and .md.
"""

import argparse
import datetime
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.run import train
from tests.conftest import ROOT, make_shards
from tests.reference.cases import ALL_FAMILIES, PRECISIONS, STAGES, STEPS, a_family, told
from tests.reference.conftest import run_ranks

# Most that a loss of the curve and the last validation loss may differ, relatively. bf16 with masters is compared with
# bf16 products and FP32 weights: other roundings of the same training.
BANDS = {"fp32": (1e-4, 1e-4), "bf16-autocast": (5e-3, 1e-3), "bf16-master": (5e-3, 1e-3)}
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
        for stage in STAGES:
            two = json.loads((out / f"{family}-{precision}-{stage}.json").read_text())
            rows.append({"family": family, "precision": precision, "stage": stage, **_differences(one, two, precision)})
            print(rows[-1], flush=True)
    return rows


def _differences(one: dict[str, Any], two: dict[str, Any], precision: str) -> dict[str, Any]:
    steps = [a["step"] for a in one["curve"]] == [b["step"] for b in two["curve"]] == list(range(STEPS))
    pairs = list(zip(one["curve"], two["curve"], strict=True))
    curve = max(abs(b["loss"] / a["loss"] - 1) for a, b in pairs)
    norm = max(abs(b["gradient_norm"] / a["gradient_norm"] - 1) for a, b in pairs)
    final = abs(two["final_loss"] / one["final_loss"] - 1)
    most_curve, most_final = BANDS[precision]
    is_good = steps and curve <= most_curve and final <= most_final and one["status"] == two["status"] == "finished"
    return {"curve": curve, "gradient_norm": norm, "final": final, "good": is_good}


def _write(rows: list[dict[str, Any]], seconds: float) -> None:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    folder = ROOT / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"reference-{date}.json"
    path.write_text(json.dumps({"date": date, "steps": STEPS, "bands": BANDS, "rows": rows}, indent=1) + "\n")
    lines = [
        f"# DeepSpeed against train/, {date}",
        "",
        f"`python -m tests.slow.reference`: {STEPS} steps of a tiny decoder of each family by two ranks over gloo, a",
        "batch of seven sequences (shares of three and four, micro-batches of two), against the same run by `train/` in",
        "one process. Largest relative difference of a loss of the curve, of a gradient's norm, and of the last",
        f"validation loss; bf16-master is compared with bf16-autocast there. Made in {seconds:.0f} s.",
        "",
        f"{sum(row['good'] for row in rows)} of {len(rows)} within their bands: "
        + "; ".join(f"{name} {curve:g} and {final:g}" for name, (curve, final) in BANDS.items())
        + " (curve, validation).",
        "",
        "| family | precision | ZeRO stage | curve | gradient norm | validation | good |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['family']} | {row['precision']} | {row['stage']} | {row['curve']:.1e} "
            f"| {row['gradient_norm']:.1e} | {row['final']:.1e} | {'yes' if row['good'] else 'NO'} |"
            for row in rows
        ),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"wrote {path} and its .md")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
