"""Log-probabilities of continuations: what a decoder answers to multiple-choice items and to lm-evaluation-harness.

Context rule: each token of a continuation is scored once. The last `context` tokens before its end are the window's
targets, each predicted from all before it in the window; where a continuation is longer than the model's context,
earlier windows without overlap score the rest. What of the context does not fit is cut from its left. Knows nothing of
text, studies or storage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from raystudy.train.evaluation import PADDING, rows_at_once

TokenArray = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Scored:
    """Of one continuation: its summed log-probability in nats, and whether each token was the likeliest."""

    log_probability: float
    is_greedy: bool


def continuation_windows(context_tokens: TokenArray, continuation: TokenArray, context: int) -> list[tuple[int, int]]:
    """Start of each window in context + continuation, and its number of targets counted from its end.

    A window has at most `context` inputs; together the windows have every token of the continuation as a target once.
    """
    windows = []
    end, left = len(context_tokens) + len(continuation), len(continuation)
    while left > 0:
        start = max(0, end - context - 1)
        scored = min(left, end - start - 1)
        windows.append((start, scored))
        end, left = end - scored, left - scored
    return windows


@torch.no_grad()
def score_continuations(
    model: nn.Module, pairs: Sequence[tuple[TokenArray, TokenArray]], context: int, device: str
) -> list[Scored]:
    """Scores of pairs of a context (at least one token) and a continuation, which may be empty."""
    inputs, targets, owners = [], [], []
    for owner, (before, continuation) in enumerate(pairs):
        if not len(before):
            raise ValueError("a context must hold at least one token, such as end-of-text")
        whole = torch.from_numpy(np.concatenate([before, continuation]).astype(np.int64))
        end = len(whole)
        for start, scored in continuation_windows(before, continuation, context):
            piece = whole[start:end]
            target = piece[1:].clone()
            target[: len(target) - scored] = PADDING
            inputs.append(piece[:-1])
            targets.append(target)
            owners.append(owner)
            end -= scored
    sums, greedy = [0.0] * len(pairs), [True] * len(pairs)
    # Windows of like length together: less padding, and padding comes last, where nothing before it sees it.
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    most = rows_at_once(model, context)
    for first in range(0, len(order), most):
        rows = order[first : first + most]
        for index, (loss, is_greedy) in zip(rows, _score_rows(model, inputs, targets, rows, device), strict=True):
            sums[owners[index]] -= loss
            greedy[owners[index]] &= is_greedy
    return [Scored(total, is_greedy) for total, is_greedy in zip(sums, greedy, strict=True)]


def _score_rows(
    model: nn.Module, inputs: list[torch.Tensor], targets: list[torch.Tensor], rows: list[int], device: str
) -> list[tuple[float, bool]]:
    """Summed loss of the targets of each row, and whether all were the likeliest."""
    longest = max(len(inputs[index]) for index in rows)
    batch = torch.stack([functional.pad(inputs[i], (0, longest - len(inputs[i]))) for i in rows]).to(device)
    wanted = torch.stack([functional.pad(targets[i], (0, longest - len(targets[i])), value=PADDING) for i in rows]).to(
        device
    )
    logits = model(batch).float()
    losses = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=PADDING, reduction="none")
    missed = (logits.argmax(dim=-1) != wanted) & (wanted != PADDING)
    summed = losses.view(wanted.shape).double().sum(dim=1).cpu().tolist()
    return list(zip(summed, (~missed.any(dim=1)).cpu().tolist(), strict=True))
