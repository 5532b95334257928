"""Whether a run has diverged, in words: empty where it has not."""

import math
from collections.abc import Mapping, Sequence

from raystudy.train.evaluation import Evaluation

_DIVERGED_RATIO = 1.05  # training losses that end above this times the first one are no training
_LAST_ROWS = 3  # of the curve, averaged: single batches are noisy


def not_finite(evaluations: Mapping[str, Evaluation]) -> str:
    """Which validation loss is not finite; `evaluations` by digest."""
    losses = {digest: evaluation.nats_per_token for digest, evaluation in evaluations.items()}
    found = [f"{loss} on validation set {digest}" for digest, loss in losses.items() if not math.isfinite(loss)]
    return f"the final loss was {', '.join(found)}" if found else ""


def has_risen(curve: Sequence[Mapping[str, float]], first: float) -> str:
    """How far training stands above `first`, the loss at initialisation: validation sets are not the run's."""
    last = [row["loss"] for row in curve[-_LAST_ROWS:]]
    mean = sum(last) / len(last)
    return f"the training loss rose from {first:.4g} to {mean:.4g}" if mean > _DIVERGED_RATIO * first else ""
