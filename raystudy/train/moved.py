"""How far a run went from where it began. A run that has hardly moved ranks recipes by little."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from raystudy.specs.training import RunSettings
from raystudy.train.evaluation import Evaluation
from raystudy.train.schedule import lr_factor


def moved(
    model: nn.Module,
    initial_weights: Mapping[str, Tensor],
    initial: Mapping[str, Evaluation],
    final: Mapping[str, Evaluation],
    settings: RunSettings,
) -> dict[str, float]:
    """Cumulative learning rate, share of weights changed and, where the run ended finite, relative loss drop."""
    total = sum(weight.numel() for weight in initial_weights.values())
    changed = sum(int((p != initial_weights[name]).sum()) for name, p in model.named_parameters())
    figures = {"cumulative_lr": cumulative_lr(settings, settings.steps), "share_of_weights_changed": changed / total}
    if final:
        before = sum(evaluation.nats_per_token for evaluation in initial.values())
        after = sum(evaluation.nats_per_token for evaluation in final.values())
        if math.isfinite(after):
            figures["relative_loss_drop"] = (before - after) / before
    return figures


def cumulative_lr(settings: RunSettings, until: int) -> float:
    """The sum of the learning rates of the first `until` steps."""
    return sum(settings.lr * lr_factor(settings.schedule, step, settings.steps) for step in range(until))
