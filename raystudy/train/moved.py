"""How far a run went from where it began. A run that has hardly moved ranks recipes by little."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raystudy.specs.training import RunSettings
from raystudy.train.evaluation import Evaluation
from raystudy.train.schedule import lr_factor


def moved(
    model: nn.Module,
    initial_weights: Mapping[str, Tensor],
    initial: Mapping[str, Evaluation],
    final: Mapping[str, Evaluation],
    settings: RunSettings,
    tokens: Tensor,
) -> dict[str, float]:
    """Cumulative learning rate, share of weights changed and, where they are finite, how far the function moved.

    That is the relative loss drop (over the validation sets), and the RMS change of the logits on the fixed batch
    `tokens` [sequence, length].
    """
    total = sum(weight.numel() for weight in initial_weights.values())
    changed = sum(int((p != initial_weights[name]).sum()) for name, p in model.named_parameters())
    figures = {"cumulative_lr": cumulative_lr(settings, settings.steps), "share_of_weights_changed": changed / total}
    if final:
        before = sum(evaluation.nats_per_token for evaluation in initial.values())
        after = sum(evaluation.nats_per_token for evaluation in final.values())
        if math.isfinite(after) and math.isfinite(before):
            figures["relative_loss_drop"] = (before - after) / before
    change = rms_logit_change(model, initial_weights, tokens)
    return figures | ({"rms_logit_change": change} if math.isfinite(change) else {})


def cumulative_lr(settings: RunSettings, until: int) -> float:
    """The sum of the learning rates of the first `until` steps."""
    return sum(settings.lr * lr_factor(settings.schedule, step, settings.steps) for step in range(until))


@torch.no_grad()
def rms_logit_change(model: nn.Module, initial_weights: Mapping[str, Tensor], tokens: Tensor) -> float:
    """Root mean square of the difference between the logits now and those with `initial_weights`."""
    squares, count = 0.0, 0
    for row in range(len(tokens)):  # one at a time: logits of a large vocabulary take room
        inputs = tokens[row : row + 1]
        change = model(inputs).float() - functional_call(model, dict(initial_weights), (inputs,)).float()
        squares, count = squares + float(change.double().square().sum()), count + change.numel()
    return math.sqrt(squares / count) if math.isfinite(squares) else math.nan
