"""Validation loss: summed per document, every token after a document's first scored exactly once.

Context rule: a document (which starts with the end-of-text token) is cut into windows of the model's context; a token
is predicted from the tokens before it in its window. Windows do not overlap, unless the validation set says by which
share: each then begins that much of a context before the end of the one before, and scores only what comes after it.
Knows nothing of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from raystudy.study.ngrams import unigram_probabilities

_MOST_ROWS = 64  # windows evaluated at once; changes memory, not results beyond rounding
_MOST_LOGITS = 2**27  # at once: half a GiB of FP32
PADDING = -100

TokenArray = npt.NDArray[np.uint16]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ValidationDocuments:
    """The documents of one validation set: token ids (first is end-of-text) and UTF-8 bytes of each.

    `overlap`: share of a window, below 1, that only gives context.
    """

    tokens: Sequence[TokenArray]
    num_bytes: Sequence[int]
    overlap: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """Sums per document: loss in nats, scored tokens, bytes."""

    loss_sum: FloatArray
    num_tokens: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]

    @property
    def nats_per_token(self) -> float:
        """Token-weighted mean loss."""
        return float(self.loss_sum.sum() / self.num_tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Token-weighted loss per byte of text, in bits."""
        return float(self.loss_sum.sum() / np.log(2) / self.num_bytes.sum())


def windows(documents: ValidationDocuments, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs and targets [window, context], targets that are not scored PADDING, and the document of each window."""
    inputs, targets, owners = [], [], []
    stride = max(1, context - int(documents.overlap * context))
    for owner, tokens in enumerate(documents.tokens):
        start, scored = 0, 0  # `scored`: the last token that a window before has scored
        while scored < len(tokens) - 1:
            piece = torch.from_numpy(tokens[start : start + context + 1].astype(np.int64))
            missing = context + 1 - len(piece)
            target = functional.pad(piece[1:], (0, missing), value=PADDING)
            target[: scored - start] = PADDING
            inputs.append(functional.pad(piece[:-1], (0, missing)))
            targets.append(target)
            owners.append(owner)
            scored, start = start + len(piece) - 1, start + stride
    return torch.stack(inputs), torch.stack(targets), torch.tensor(owners)


def rows_at_once(model: nn.Module, context: int) -> int:
    """How many windows are evaluated at once, so that memory is bounded for any context and vocabulary."""
    vocabulary = max((part.num_embeddings for part in model.modules() if isinstance(part, nn.Embedding)), default=1)
    return max(1, min(_MOST_ROWS, _MOST_LOGITS // (context * vocabulary)))


@torch.no_grad()
def evaluate(model: nn.Module, documents: ValidationDocuments, context: int, device: str) -> Evaluation:
    """Loss of `model` on every document, in nats."""
    inputs, targets, owners = windows(documents, context)
    sums = torch.zeros(len(documents.tokens), dtype=torch.float64)
    for rows in torch.split(torch.arange(len(inputs)), rows_at_once(model, context)):
        logits = model(inputs[rows].to(device)).float()
        flat = targets[rows].to(device)
        losses = functional.cross_entropy(logits.flatten(0, 1), flat.flatten(), ignore_index=PADDING, reduction="none")
        per_window = losses.view(flat.shape).double().sum(dim=1).cpu()
        sums.index_add_(0, owners[rows], per_window)
    return Evaluation(sums.numpy(), scored_tokens(documents), np.asarray(documents.num_bytes, dtype=np.int64))


def scored_tokens(documents: ValidationDocuments) -> npt.NDArray[np.int64]:
    """Tokens of each document that are scored: all after its first."""
    return np.array([len(tokens) - 1 for tokens in documents.tokens], dtype=np.int64)


def unigram_loss(
    documents: ValidationDocuments, weights: Sequence[float], counts: Sequence[npt.NDArray[np.int64]]
) -> float:
    """Loss in nats per token of the recipe's own word counts: the floor a trained model must get under."""
    log_probability = np.log(unigram_probabilities(weights, counts))
    total = sum(float(log_probability[tokens[1:]].sum()) for tokens in documents.tokens)
    return -total / float(scored_tokens(documents).sum())
