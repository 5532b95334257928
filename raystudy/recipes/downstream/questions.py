"""Multiple-choice questions in text, and the one rule by which they become tokens.

The rule is the harness's: spaces at the end of a context belong to the continuation; context and continuation are cut
into tokens together, and those beyond the context's own are the continuation. As each document begins with the
end-of-text token, so does each context. Knows nothing of where questions come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raystudy.artifacts.items import Choice, Item
from raystudy.artifacts.shards import TokenArray
from raystudy.recipes.tokenizer import TokenizerFile


@dataclass(frozen=True)
class Question:
    """For each choice a context, its continuation, and the choice's own text, by whose length it is normalised."""

    pairs: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]
    right: int


def encode_pairs(tokenizer: TokenizerFile, pairs: Sequence[tuple[str, str]]) -> list[tuple[TokenArray, TokenArray]]:
    """Tokens of each context, which begin with end-of-text, and of its continuation."""
    moved = [(context.rstrip(), context[len(context.rstrip()) :] + continuation) for context, continuation in pairs]
    contexts = tokenizer.encode([context for context, _ in moved])
    wholes = tokenizer.encode([context + continuation for context, continuation in moved])
    alone = tokenizer.encode([continuation for _, continuation in moved])
    start = np.array([tokenizer.end_of_text], dtype=np.uint16)
    encoded = []
    for context, whole, continuation in zip(contexts, wholes, alone, strict=True):
        rest = whole[len(context) :]  # none where the last token of the context takes in the continuation
        encoded.append((np.concatenate([start, context]), rest if len(rest) else continuation))
    return encoded


def encode_questions(tokenizer: TokenizerFile, questions: Sequence[Question]) -> list[Item]:
    """The questions in tokens, in their order."""
    encoded = iter(encode_pairs(tokenizer, [pair for question in questions for pair in question.pairs]))
    return [
        Item(
            tuple(Choice(*next(encoded), max(1, len(text))) for text in question.texts),
            question.right,
        )
        for question in questions
    ]
