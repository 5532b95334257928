"""Validation loss by all ranks: the documents of a set are shared out, the sums are those of `train.evaluation`.

The model is a plain decoder with whole FP32 weights on every rank's device, which must have room for them beside what
trains; logits are computed in FP32 whatever the run's precision.
"""

import numpy as np
import torch

from raystudy.reference.world import World
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import Evaluation, ValidationDocuments, evaluate, scored_tokens
from raystudy.train.run import ValidationSets


def evaluate_on_ranks(model: Decoder, documents: ValidationDocuments, context: int, world: World) -> Evaluation:
    """Loss of `model`, which is the same on all ranks, on every document, in nats; the same on all ranks.

    Equal to `evaluate` within rounding: a window is only batched with other ones.

    Raises:
        OtherRankError: another rank failed in it.
    """
    counts = scored_tokens(documents)
    mine = [index for index in range(world.rank, len(counts), world.size) if counts[index]]
    share = ValidationDocuments(
        [documents.tokens[index] for index in mine], [documents.num_bytes[index] for index in mine], documents.overlap
    )
    sums = torch.zeros(len(counts), dtype=torch.float64)

    def fill() -> None:
        if mine:
            sums[mine] = torch.from_numpy(evaluate(model, share, context, world.device).loss_sum)

    world.together(fill)
    return Evaluation(world.sum(sums).numpy(), counts, np.asarray(documents.num_bytes, dtype=np.int64))


def evaluate_all_on_ranks(
    model: Decoder, validation: ValidationSets, context: int, world: World
) -> dict[str, Evaluation]:
    """The model's loss on every validation set, by digest; the same on all ranks."""
    return {digest: evaluate_on_ranks(model, each, context, world) for digest, each in validation.items()}
