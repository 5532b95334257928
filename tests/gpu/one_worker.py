"""One process that trains what a file asks for, with `train/` or as DeepSpeed's only worker, and leaves what it saw.

`python -m tests.gpu.one_worker FOLDER` reads FOLDER/asked.json and writes FOLDER/found.json. A process of its own, so
that its end gives the device's memory back, and since DeepSpeed's group of processes must not outlive a test.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import RecipeView, Selected, open_tokens, open_view
from raystudy.reference.fitting import rows_at_once
from raystudy.reference.run import train_on_ranks
from raystudy.reference.start import prepare_deepspeed
from raystudy.reference.training import ReferenceTraining
from raystudy.reference.world import World, join, leave
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.process import peak_memory, reset_state
from raystudy.train.run import train
from raystudy.train.training import Training
from tests.conftest import ROOT

Device = Literal["cpu", "cuda"]
_DOCUMENT = 8192  # tokens


def random_view(storage: Path, vocabulary: int, tokens: int) -> str:
    """A view of random tokens, some `tokens` of them; its digest."""
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, vocabulary, _DOCUMENT).astype(np.uint16) for _ in range(-(-tokens // _DOCUMENT))]
    count = len(documents)
    shard = open_tokens(storage, write_tokens(storage, documents, [4 * _DOCUMENT] * count, vocabulary, 0))
    return write_view(storage, "random", [SourceDraft("random", 1.0, (Selected(shard, np.arange(count)),))])


def speed(
    folder: Path, storage: Path, run: TrainRun, device: Device, *, warm_up: int, steps: int, limit: float
) -> dict[str, float]:
    """Tokens per second of `steps` steps after `warm_up` steps, sequences computed at once, bytes held at most."""
    engine = DeepSpeedEngine(kind="deepspeed", gpus_per_worker=int(device == "cuda"), zero_stage=1)
    asked = {"run": run.model_dump(), "engines": [engine.model_dump()], "warm_up": warm_up, "steps": steps}
    return _ask(folder, {"what": "speed", "storage": str(storage), "device": device, **asked}, limit)


def curves(
    folder: Path, storage: Path, validation: str, run: TrainRun, engines: Sequence[DeepSpeedEngine], device: Device
) -> list[list[float]]:
    """The losses, those of the curve and the last one of validation, of one process and then of each engine."""
    asked = {"run": run.model_dump(), "engines": [engine.model_dump() for engine in engines], "validation": validation}
    found: list[list[float]] = _ask(folder, {"what": "curves", "storage": str(storage), "device": device, **asked}, 300)
    return found


def _ask(folder: Path, asked: Mapping[str, Any], limit: float) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asked.json").write_text(json.dumps(asked))
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.gpu.one_worker", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **place}, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "found.json").read_text())


def _measure(run: TrainRun, view: RecipeView, asked: Mapping[str, Any], world: World | None) -> dict[str, float]:
    device = asked["device"]
    reset_state(run.seed)
    training: Training | ReferenceTraining
    if world is None:
        training = Training(run, view, device)
    else:
        prepare_deepspeed(world.local_rank, world.device)
        engine = DeepSpeedEngine.model_validate(asked["engines"][0])
        training = ReferenceTraining(run, view, engine, world, rows_at_once(run, view, engine, world))
    assert training.advance(asked["warm_up"]), training.problem
    _wait_for(device)
    began = time.perf_counter()
    assert training.advance(asked["warm_up"] + asked["steps"]), training.problem
    _wait_for(device)
    seconds = time.perf_counter() - began
    rows = training.micro_batches.rows if isinstance(training, Training) else training.rows
    tokens = asked["steps"] * run.settings.batch_sequences * run.model.context
    return {"tokens per second": tokens / seconds, "micro-batch": rows, "peak memory": peak_memory(device)["bytes"]}


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _train_all(run: TrainRun, view: RecipeView, asked: Mapping[str, Any], world: World) -> list[list[float]]:
    digest = asked["validation"]
    shard = open_tokens(Path(asked["storage"]), digest)
    documents = {digest: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    outcomes = [train(run.model_copy(update={"engine": "torch"}), view, documents, world.device)]
    for told in asked["engines"]:
        engine = DeepSpeedEngine.model_validate(told)
        outcome = train_on_ranks(run.model_copy(update={"engine": "deepspeed"}), view, documents, engine, world)
        assert outcome is not None
        outcomes.append(outcome)
    return [
        [row["loss"] for row in outcome.curve] + [found.nats_per_token for found in outcome.final.values()]
        for outcome in outcomes
    ]


def main(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    run = TrainRun.model_validate(asked["run"])
    view = open_view(Path(asked["storage"]), run.shards)
    is_alone = asked["what"] == "speed" and run.engine == "torch"
    world = None if is_alone else join(asked["device"], meeting=folder / "meeting")
    if world is None or asked["what"] == "speed":
        found: Any = _measure(run, view, asked, world)
    else:
        found = _train_all(run, view, asked, world)
    (folder / "found.json").write_text(json.dumps(found))
    if world is not None:
        leave(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
