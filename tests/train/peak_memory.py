"""`python -m tests.train.peak_memory CASE`: by how much a process grows at most in a training, beside the estimate.

Run in a process of its own, since freed memory stays with a process. A tiny training goes first, so that what loads
once (torch, its kernels) is not counted. CASE is JSON: `model`, `rows` of a batch, and optional `precision`, `micro`
(tokens at once) and `evaluated` (windows; without them the estimate leaves the evaluation out too).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import Selected, open_tokens, open_view
from raystudy.specs.memory import Training, estimate_memory
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.schedules import WarmupStableDecay
from raystudy.specs.training import AdamW, RunSettings
from tests.conftest import ROOT

TINY = {"layers": 1, "width": 16, "heads": 2, "context": 16}
STEPS = 2


def grown_and_estimated(case: dict[str, Any], timeout: float = 120) -> tuple[int, dict[str, int]]:
    """Bytes by which a fresh process grew at most, and the estimate's parts."""
    command = [sys.executable, "-m", "tests.train.peak_memory", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["grown"], answer["estimate"]


def the_run(view: str, model: dict[str, Any], vocabulary: int, rows: int, precision: str) -> TrainRun:
    """A run of two steps."""
    return TrainRun(
        kind="train",
        shards=view,
        model=ResolvedDecoder(kind="decoder", vocabulary=vocabulary, **model),
        settings=RunSettings(
            steps=STEPS,
            batch_sequences=rows,
            lr=1e-3,
            schedule=WarmupStableDecay(kind="wsd"),
            optimizer=AdamW(),
            clip=1.0,
        ),
        seed=0,
        precision=precision,
        numerics=NUMERICS,
    )


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train in this process; the growth and the estimate."""
    from raystudy.train.evaluation import ValidationDocuments
    from raystudy.train.process import peak_memory, reset_state
    from raystudy.train.run import Means, train

    model, rows, precision = dict(case["model"]), case["rows"], case.get("precision", "fp32")
    vocabulary = model.pop("vocabulary")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        documents = np.random.default_rng(0).integers(1, vocabulary, (80, model["context"] + 1)).astype(np.uint16)
        length = len(documents[0])
        tokens = write_tokens(root, list(documents), [4 * length] * len(documents), vocabulary, 0)
        shard = open_tokens(root, tokens)
        digest = write_view(root, "random", [SourceDraft("a", 1.0, (Selected(shard, np.arange(80)),))])
        view = open_view(root, digest)
        read, sizes = shard.documents()[: case.get("evaluated", 0)], shard.document_bytes.tolist()
        validation = {tokens: ValidationDocuments(read, sizes[: len(read)])} if len(read) else {}
        train(the_run(digest, TINY, vocabulary, 1, precision), view, {}, "cpu")
        reset_state(0)
        before = peak_memory("cpu")["bytes"]
        means = Means(case.get("micro", "auto"))
        outcome = train(the_run(digest, model, vocabulary, rows, precision), view, validation, "cpu", means)
    run = the_run(digest, model, vocabulary, rows, precision)
    training = Training(
        run.model,
        vocabulary,
        precision,
        AdamW(),
        rows * run.model.context,
        micro_batch_tokens=case.get("micro", "auto"),
    )
    parts = estimate_memory(training, evaluates="evaluated" in case).as_dict()
    return {"grown": outcome.made["peak_memory"]["bytes"] - int(before), "estimate": parts}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
