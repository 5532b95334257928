"""How much of a card's arithmetic a training uses: MFU (Chowdhery et al., arXiv 2204.02311, appendix B), and of what.

MFU = FLOPs of forward and backward per token x tokens per second / the card's peak. Nothing here measures.
"""

import re

from raystudy.specs.model import training_flops_per_token
from raystudy.specs.presets import PRESETS
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.schedules import WarmupStableDecay
from raystudy.specs.training import AdamW, RunSettings

# Dense bf16 FLOP/s of the SXM cards: half of the 1,979 TFLOP/s that NVIDIA's data sheets of the H100 and the H200 give
# with sparsity. PCIe and NVL cards of these names have other peaks, and a MIG slice is a part of a card.
_PEAK = 989e12
_CARDS = re.compile(r"NVIDIA (H100 80GB HBM3|H200)")

WANTED = 0.4  # MFU
BATCH_TOKENS = 2**17
SCHEDULED_STEPS = 1000  # of the run, of which a measurement takes the first few dozen


def peak_flops(device_name: str) -> float | None:
    """The card's dense bf16 FLOP/s; None where no data sheet's is known here."""
    return _PEAK if _CARDS.fullmatch(device_name) else None


def mfu(run: TrainRun, tokens_per_second: float, peak: float) -> float:
    """The share of `peak` FLOP/s that the training's own arithmetic takes."""
    return training_flops_per_token(run.model, run.model.vocabulary) * tokens_per_second / peak


def published_run(view: str, preset: str, engine: str) -> TrainRun:
    """A published model in bf16, on random tokens: autocast in one process, FP32 masters under DeepSpeed."""
    chosen = PRESETS[preset]
    model = ResolvedDecoder(kind="decoder", vocabulary=chosen.vocabulary, **chosen.fields)
    settings = RunSettings(
        steps=SCHEDULED_STEPS,
        batch_sequences=BATCH_TOKENS // model.context,
        lr=1e-4,
        schedule=WarmupStableDecay(kind="wsd", warmup=0.1, decay=0.2),
        optimizer=AdamW(),
        clip=1.0,
    )
    precision = "bf16-autocast" if engine == "torch" else "bf16-master"
    fields = {"engine": engine, "precision": precision, "numerics": NUMERICS}
    return TrainRun(kind="train", shards=view, model=model, settings=settings, seed=0, **fields)
