"""Keeps the share of the documents that read most like written language, by a heuristic.

The score is the mean of four numbers in [0, 1], after the rules of Gopher and C4 (thresholds: assumptions):
share of characters that are letters or spaces; share of English function words, full marks at 15%;
share of lines that are not repeated; share of distinct words among the first 200, full marks at 60%.
"""

import re
from collections.abc import Sequence

from raystudy.recipes.documents import document_key
from raystudy.specs.recipe import KeepBest

_WORD = re.compile(r"[^\W\d_]+")
_FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "if", "in", "is",
     "it", "not", "of", "on", "or", "that", "the", "this", "to", "was", "with"}
)  # fmt: skip
_FULL_FUNCTION_SHARE = 0.15
_FULL_DISTINCT_SHARE = 0.6
_DISTINCT_WINDOW_WORDS = 200


def keep_best(step: KeepBest, texts: Sequence[str]) -> list[str | None]:
    """The best `share` of the documents by number, at least one; a smaller share keeps a subset."""
    ranked = sorted(range(len(texts)), key=lambda index: (-quality(texts[index]), document_key(texts[index]), index))
    kept = set(ranked[: max(round(step.share * len(texts)), 1)])
    return [text if index in kept else None for index, text in enumerate(texts)]


def quality(text: str) -> float:
    """The score of one document, in [0, 1]; rounded, so that it is the same on every machine."""
    words = _WORD.findall(text.lower())
    if not words:
        return 0.0
    num_spaces = len(text) - sum(map(len, text.split()))
    letters = min((sum(map(len, words)) + num_spaces) / len(text), 1.0)  # lower case may be longer
    function_share = sum(word in _FUNCTION_WORDS for word in words) / len(words)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    first_words = words[:_DISTINCT_WINDOW_WORDS]
    distinct_share = len(set(first_words)) / len(first_words)
    parts = (
        letters,
        min(function_share / _FULL_FUNCTION_SHARE, 1.0),
        len(set(lines)) / len(lines),
        min(distinct_share / _FULL_DISTINCT_SHARE, 1.0),
    )
    return round(sum(parts) / len(parts), 9)
