"""Deliberately bad: characters of a document become random letters and digits."""

import random
import string
from collections.abc import Sequence

from raystudy.recipes.documents import document_key
from raystudy.specs.recipe import Noise

_ALPHABET = string.ascii_lowercase + string.digits


def noise(step: Noise, texts: Sequence[str]) -> list[str | None]:
    """Each document with `share` of its characters replaced, seeded by its own text."""
    return [_noisy(text, step.share) for text in texts]


def _noisy(text: str, share: float) -> str:
    # Only random() is used: its sequence is promised to stay the same in all versions of Python.
    draw = random.Random(int(document_key(text), 16)).random
    return "".join(_ALPHABET[int(draw() * len(_ALPHABET))] if draw() < share else character for character in text)
