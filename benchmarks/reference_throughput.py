"""Tokens per second of one DeepSpeed worker, by ZeRO stage, against `train/`: one run, one process and thread each.

GPT-2's family, 4 layers of width 128 and 4,096 tokens: 1.3M parameters with the embedding. All ways live at once, each
in a process of its own that waits while another trains; a round takes so many steps of each, in alternating order, and
gives a ratio for each stage. CPU time of the process (all its threads) is what can be trusted where other work keeps
the machine busy; wall time is given beside it, and what the load was. Writes
benchmarks/results/reference_throughput.json.

    python benchmarks/reference_throughput.py [--rounds 5] [--steps 20] [--stages 0 1 2 3]
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import Selected, open_tokens, open_view
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.model import count_parameters
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.schedules import WarmupStableDecay
from raystudy.specs.training import AdamW, RunSettings

ROOT = Path(__file__).resolve().parent.parent
STAGES = (0, 1, 2, 3)
BATCH_SEQUENCES, CONTEXT, VOCABULARY = 32, 128, 4096
WARM_UP_STEPS = 3  # of each way, before the first round


def build(storage: Path) -> str:
    """A view of random tokens; its digest."""
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, VOCABULARY, 1000).astype(np.uint16) for _ in range(1000)]
    shard = open_tokens(storage, write_tokens(storage, documents, [4000] * 1000, VOCABULARY, 0))
    return write_view(storage, "random", [SourceDraft("random", 1.0, (Selected(shard, np.arange(1000)),))])


def a_run(view: str, steps: int, way: str) -> TrainRun:
    """The run that all ways take steps of."""
    model = ResolvedDecoder(
        kind="decoder", layers=4, width=128, heads=4, context=CONTEXT, vocabulary=VOCABULARY, activation="gelu-tanh"
    )
    settings = RunSettings(
        steps=steps,
        batch_sequences=BATCH_SEQUENCES,
        lr=1e-3,
        schedule=WarmupStableDecay(kind="wsd", warmup=0.1, decay=0.2),
        optimizer=AdamW(),
        clip=1.0,
    )
    engine = "torch" if way == "train" else "deepspeed"
    return TrainRun(kind="train", shards=view, model=model, settings=settings, seed=0, engine=engine, numerics=NUMERICS)


def begin(way: str, storage: Path, run: TrainRun) -> Any:
    """The training of one way, in this process."""
    from raystudy.train.process import reset_state
    from raystudy.train.training import Training

    view = open_view(storage, run.shards)
    reset_state(run.seed)  # one thread
    if way == "train":
        return Training(run, view, "cpu")
    from raystudy.reference.start import prepare_deepspeed
    from raystudy.reference.training import ReferenceTraining
    from raystudy.reference.world import join

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    world = join("cpu", meeting=storage / f"meeting-{way}")
    prepare_deepspeed(world.local_rank, world.device)
    stage = int(way.removeprefix("zero-"))
    engine = DeepSpeedEngine(kind="deepspeed", workers=1, zero_stage=stage)  # type: ignore[arg-type]
    return ReferenceTraining(run, view, engine, world, rows=BATCH_SEQUENCES)


def work(way: str, storage: Path, run: TrainRun, orders: Connection) -> None:
    """Take as many steps as each order says, and answer with the seconds that they took; 0 ends it."""
    training = begin(way, storage, run)
    while steps := orders.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        if not training.advance(training.step + steps):
            raise RuntimeError(training.problem)
        orders.send({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
    orders.send([row["loss"] for row in training.curve])


def measure(
    storage: Path, ways: Sequence[str], rounds: int, steps: int
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Of each round the seconds by way, and of each way the losses that it logged."""
    context = multiprocessing.get_context("spawn")
    view, total = build(storage), WARM_UP_STEPS + rounds * steps
    talk, processes, raw = {}, [], []
    for way in ways:
        talk[way], theirs = context.Pipe()
        run = a_run(view, total, way)
        processes.append(context.Process(target=work, args=(way, storage, run, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that its end here closes if the process does

    def order(way: str, count: int) -> Any:
        talk[way].send(count)
        return talk[way].recv()

    for way in ways:
        order(way, WARM_UP_STEPS)
    for number in range(rounds):
        in_order = ways if number % 2 == 0 else ways[::-1]
        raw.append({"load": os.getloadavg()[0], "seconds": {way: order(way, steps) for way in in_order}})
        print(json.dumps(raw[-1]), flush=True)
    losses = {way: order(way, 0) for way in ways}
    for process in processes:
        process.join()
    return raw, losses


def summarise(raw: list[dict[str, Any]], losses: dict[str, list[float]], steps: int) -> dict[str, Any]:
    """Medians over the rounds; a ratio is of tokens per second, DeepSpeed's to `train/`'s, within a round."""
    tokens = steps * BATCH_SEQUENCES * CONTEXT
    ways = list(losses)
    ratios = {
        way: {kind: [r["seconds"]["train"][kind] / r["seconds"][way][kind] for r in raw] for kind in ("cpu", "wall")}
        for way in ways[1:]
    }
    model = a_run("", steps, "train").model
    counts = count_parameters(model, VOCABULARY)
    return {
        "inputs": {
            "parameters": counts.total,
            "non_embedding_parameters": counts.non_embedding,
            "precision": "fp32",
            "tokens_a_step": BATCH_SEQUENCES * CONTEXT,
            "steps_a_measurement": steps,
            "workers": 1,
            "threads": 1,
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "load_averages": [r["load"] for r in raw],
        },
        "repeats": len(raw),
        "median_tokens_per_second": {
            way: {kind: statistics.median(tokens / r["seconds"][way][kind] for r in raw) for kind in ("cpu", "wall")}
            for way in ways
        },
        "median_ratio_to_train": {
            way: {kind: statistics.median(values) for kind, values in kinds.items()} for way, kinds in ratios.items()
        },
        "ratios_to_train": ratios,
        "largest_relative_difference_of_a_loss": {
            way: max(abs(b / a - 1) for a, b in zip(losses["train"], losses[way], strict=True)) for way in ways[1:]
        },
        "raw": raw,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a measurement")
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=STAGES)
    options = parser.parse_args()
    ways = ("train", *(f"zero-{stage}" for stage in options.stages))
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="raystudy-bench-") as scratch:
        raw, losses = measure(Path(scratch), ways, options.rounds, options.steps)
    summary = summarise(raw, losses, options.steps)
    print(json.dumps({key: value for key, value in summary.items() if key != "raw"}, indent=1))
    target = ROOT / "benchmarks" / "results" / "reference_throughput.json"
    target.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
