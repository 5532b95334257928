"""Steps, one file each; STEPS registers them by the `step` of their spec.

A step is a function `(spec, documents) -> documents` that gives one item for each document, in the
same order: None where it is dropped, another string where it is changed. It is deterministic, leaves its
input alone, and looks at nothing but the texts. To add one: its file, its line here, its spec.
"""

from collections.abc import Callable, Sequence
from typing import Any

from raystudy.recipes.steps.deduplicate import deduplicate
from raystudy.recipes.steps.keep_best import keep_best
from raystudy.recipes.steps.noise import noise
from raystudy.recipes.steps.shuffle_words import shuffle_words

__all__ = ["STEPS", "StepFunction"]

StepFunction = Callable[[Any, Sequence[str]], list[str | None]]

STEPS: dict[str, StepFunction] = {
    "keep-best": keep_best,
    "deduplicate": deduplicate,
    "shuffle-words": shuffle_words,
    "noise": noise,
}
