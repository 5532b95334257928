"""Deliberately bad: words of a document change places; its letters, words and white space stay."""

import random
import re
from collections.abc import Sequence

from raystudy.recipes.documents import document_key
from raystudy.specs.recipe import ShuffleWords

_SPACE = re.compile(r"(\s+)")


def shuffle_words(step: ShuffleWords, texts: Sequence[str]) -> list[str | None]:
    """Each document with `share` of its words permuted among themselves, seeded by its own text."""
    return [_shuffled(text, step.share) for text in texts]


def _shuffled(text: str, share: float) -> str:
    # Only random() is used: its sequence is promised to stay the same in all versions of Python.
    generator = random.Random(int(document_key(text), 16))
    pieces = _SPACE.split(text)  # words at even places, white space at odd ones
    places = [place for place in range(0, len(pieces), 2) if generator.random() < share]
    targets = sorted(places, key=lambda _: generator.random())
    changed = list(pieces)
    for place, target in zip(places, targets, strict=True):
        changed[place] = pieces[target]
    return "".join(changed)
