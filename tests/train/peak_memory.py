"""`python -m tests.train.peak_memory CASE`: by how much a process grows at most in a training, beside the estimate.

Run in a process of its own, since freed memory stays with a process. A tiny training goes first, so that what loads
once (torch, its kernels) is not counted. CASE is JSON: `model`, `rows` of a batch, and optional `precision`, `micro`
(tokens at once) and `evaluated` (windows; without them the estimate leaves the evaluation out too). With `zero_stage`
and `activation_checkpointing` the process is one of WORKERS ranks under DeepSpeed, and says what it grew by itself.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import RecipeView, Selected, open_tokens, open_view
from raystudy.specs.memory import Training, estimate_memory
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.schedules import WarmupStableDecay
from raystudy.specs.training import AdamW, RunSettings
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.process import peak_memory, reset_state
from raystudy.train.run import Means, ValidationSets, train
from tests.conftest import ROOT

TINY = {"layers": 1, "width": 16, "heads": 2, "context": 16}
STEPS = 2
DOCUMENTS = 80
WORKERS = 2


def grown_and_estimated(case: dict[str, Any], timeout: float = 120) -> tuple[int, dict[str, int]]:
    """Bytes by which a fresh process grew at most, and the estimate's parts."""
    command = [sys.executable, "-m", "tests.train.peak_memory", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["grown"], answer["estimate"]


def a_run(view: str, model: dict[str, Any], vocabulary: int, rows: int, precision: str) -> TrainRun:
    """A run of two steps."""
    shape = ResolvedDecoder(kind="decoder", **{**model, "vocabulary": vocabulary})
    schedule = WarmupStableDecay(kind="wsd")
    settings = RunSettings(steps=STEPS, batch_sequences=rows, lr=1e-3, schedule=schedule, optimizer=AdamW(), clip=1.0)
    named = {"kind": "train", "shards": view, "seed": 0, "numerics": NUMERICS, "precision": precision}
    return TrainRun(model=shape, settings=settings, **named)


def random_data(root: Path, context: int, vocabulary: int, evaluated: int) -> tuple[RecipeView, ValidationSets]:
    """A view of random documents, each as long as a context, and the first `evaluated` of them as validation."""
    documents = np.random.default_rng(0).integers(1, vocabulary, (DOCUMENTS, context + 1)).astype(np.uint16)
    tokens = write_tokens(root, list(documents), [4 * (context + 1)] * DOCUMENTS, vocabulary, 0)
    shard = open_tokens(root, tokens)
    digest = write_view(root, "random", [SourceDraft("a", 1.0, (Selected(shard, np.arange(DOCUMENTS)),))])
    read, sizes = shard.documents()[:evaluated], shard.document_bytes.tolist()[:evaluated]
    return open_view(root, digest), {tokens: ValidationDocuments(read, sizes)} if evaluated else {}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train in this process; the growth and the estimate."""
    vocabulary, precision = case["model"]["vocabulary"], case.get("precision", "fp32")
    micro = case.get("micro", "auto")
    with tempfile.TemporaryDirectory() as folder:
        context = case["model"]["context"]
        view, validation = random_data(Path(folder), context, vocabulary, case.get("evaluated", 0))
        tiny = a_run(view.digest, TINY, vocabulary, WORKERS, precision)
        run = a_run(view.digest, case["model"], vocabulary, case["rows"], precision)
        training = Training(run.model, vocabulary, precision, AdamW(), case["rows"] * context, micro_batch_tokens=micro)
        if "zero_stage" in case:
            grown = _grown_by_workers(tiny, run, view, case)
            changed = {name: case[name] for name in ("zero_stage", "activation_checkpointing") if name in case}
            training = replace(training, workers=WORKERS, **changed)
        else:
            train(tiny, view, {}, "cpu")
            reset_state(0)
            before = int(peak_memory("cpu")["bytes"])
            outcome = train(run, view, validation, "cpu", Means(micro))
            grown = outcome.made["peak_memory"]["bytes"] - before
    return {"grown": grown, "estimate": estimate_memory(training, evaluates="evaluated" in case).as_dict()}


def _grown_by_workers(tiny: TrainRun, run: TrainRun, view: RecipeView, case: dict[str, Any]) -> int:
    from raystudy.reference.run import train_on_ranks
    from raystudy.reference.world import join, leave
    from raystudy.specs.engines import DeepSpeedEngine

    settings = {name: case[name] for name in ("zero_stage", "activation_checkpointing") if name in case}
    micro = case.get("micro", "auto")
    engine = DeepSpeedEngine(kind="deepspeed", workers=WORKERS, micro_batch_tokens=micro, **settings)
    world = join("cpu")
    train_on_ranks(tiny.model_copy(update={"engine": "deepspeed"}), view, {}, engine, world)
    reset_state(0)
    before = int(peak_memory("cpu")["bytes"])
    train_on_ranks(run.model_copy(update={"engine": "deepspeed"}), view, {}, engine, world)
    grown = int(peak_memory("cpu")["bytes"]) - before
    leave(world)
    return grown


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
