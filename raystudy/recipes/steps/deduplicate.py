"""Drops documents that repeat earlier ones, at three levels of strictness that contain each other.

A document is compared with every earlier document, kept or not: this makes the result of a stricter
level (or a lower threshold) a subset. Which of two copies stays is a matter of their order.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

import numpy as np

from raystudy.recipes.documents import document_key
from raystudy.recipes.overlap import word_runs
from raystudy.specs.recipe import Deduplicate

DEFAULT_THRESHOLD = 0.5  # Jaccard similarity
_RUN_WORDS = 5  # as in common near-deduplication of web text (5-word shingles)
_MIN_LINE_CHARACTERS = 20  # shorter lines (braces, `return x`) say nothing about copying
_SEEN_LINES_SHARE = 0.5  # assumption: half of the longer lines
_COMMON_RUN_DOCUMENTS = 50  # a run in more documents is boilerplate and no evidence; bounds the work (assumption)


def deduplicate(step: Deduplicate, texts: Sequence[str]) -> list[str | None]:
    """The documents that repeat no earlier one at the step's level."""
    repeats = _exact_repeats(texts)
    if step.level in ("lines", "near"):
        repeats |= _line_repeats(texts)
    if step.level == "near":
        repeats |= _near_repeats(texts, DEFAULT_THRESHOLD if step.threshold is None else step.threshold)
    return [None if index in repeats else text for index, text in enumerate(texts)]


def _exact_repeats(texts: Sequence[str]) -> set[int]:
    seen: set[str] = set()
    repeats = set()
    for index, text in enumerate(texts):
        key = document_key(text)
        if key in seen:
            repeats.add(index)
        seen.add(key)
    return repeats


def _line_repeats(texts: Sequence[str]) -> set[int]:
    seen: set[str] = set()
    repeats = set()
    for index, text in enumerate(texts):
        stripped = (line.strip() for line in text.split("\n"))
        lines = [line for line in stripped if len(line) >= _MIN_LINE_CHARACTERS]
        if lines and sum(line in seen for line in lines) >= _SEEN_LINES_SHARE * len(lines):
            repeats.add(index)
        seen.update(lines)
    return repeats


def _near_repeats(texts: Sequence[str], threshold: float) -> set[int]:
    """Documents with a Jaccard similarity of at least `threshold` to one earlier document."""
    all_runs = [word_runs(text, _RUN_WORDS) for text in texts]
    values, counts = np.unique(np.concatenate([*all_runs, np.zeros(0, np.uint64)]), return_counts=True)
    repeated = values[counts > 1]  # the other runs cannot be shared
    holders: defaultdict[int, list[int]] = defaultdict(list)
    repeats = set()
    for index, runs in enumerate(all_runs):
        own = [holders[run] for run in np.intersect1d(runs, repeated, assume_unique=True).tolist()]
        own = [earlier for earlier in own if len(earlier) < _COMMON_RUN_DOCUMENTS]
        shared = Counter(chain.from_iterable(own))
        for earlier in own:
            earlier.append(index)
        if any(count >= threshold * (len(runs) + len(all_runs[other]) - count) for other, count in shared.items()):
            repeats.add(index)
    return repeats
