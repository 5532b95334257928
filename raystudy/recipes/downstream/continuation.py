"""Items made from a validation set: which of some continuations follows? Nothing is downloaded."""

from collections.abc import Sequence

import numpy as np

from raystudy.artifacts.items import Choice, Item
from raystudy.artifacts.shards import TokenArray, TokenShard
from raystudy.errors import DataError
from raystudy.recipes.tokenizer import TokenizerFile
from raystudy.specs.downstream import ContinuationTask

_MOST_DRAWS = 20  # for one wrong continuation that is not one of the choices already


def continuation_items(task: ContinuationTask, shard: TokenShard, tokenizer: TokenizerFile) -> list[Item]:
    """At most `task.items` items, each from another document; a function of the spec and the set's tokens alone.

    Raises:
        DataError: no document is long enough, or too few differ.
    """
    generator = np.random.default_rng(task.seed)
    length, rest = task.context_tokens + task.continuation_tokens, task.continuation_tokens
    documents = shard.documents()
    asked = [place for place, document in enumerate(documents) if len(document) >= length]
    others = [place for place, document in enumerate(documents) if len(document) > rest]
    items: list[Item] = []
    for place in generator.permutation(np.array(asked, dtype=np.int64)).tolist():
        start = int(generator.integers(len(documents[place]) - length + 1))
        context, right = np.split(documents[place][start : start + length], [task.context_tokens])
        wrong = _draw_wrong(task, [documents[other] for other in others if other != place], right, generator)
        if len(wrong) == task.choices - 1 and len(items) < task.items:
            position = int(generator.integers(task.choices))
            continuations = [*wrong[:position], right, *wrong[position:]]
            items.append(_item(context, continuations, position, tokenizer))
    if not items:
        raise DataError(
            f"a task must have items, but none of the {len(documents)} documents of its validation set "
            f"{task.validation!r} gives one: {len(asked)} have the {length} tokens of a context and a continuation, "
            f"and {task.choices} different continuations are needed. Lower `context_tokens`, `continuation_tokens` or "
            f"`choices`, or raise the set's `max_documents` or `max_document_bytes`"
        )
    return items


def _draw_wrong(
    task: ContinuationTask, documents: Sequence[TokenArray], right: TokenArray, generator: np.random.Generator
) -> list[TokenArray]:
    """Continuations of other documents, none equal to another or to the right one; fewer where there are too few."""
    chosen: list[TokenArray] = []
    taken = {right.tobytes()}
    for _ in range(_MOST_DRAWS * (task.choices - 1) if documents else 0):
        document = documents[int(generator.integers(len(documents)))]
        start = 1 + int(generator.integers(len(document) - task.continuation_tokens))
        wrong = document[start : start + task.continuation_tokens]
        if wrong.tobytes() not in taken:
            taken.add(wrong.tobytes())
            chosen.append(wrong)
        if len(chosen) == task.choices - 1:
            break
    return chosen


def _item(context: TokenArray, continuations: list[TokenArray], right: int, tokenizer: TokenizerFile) -> Item:
    texts = tokenizer.decode([continuation.tolist() for continuation in continuations])
    choices = [Choice(context, tokens, max(1, len(text))) for tokens, text in zip(continuations, texts, strict=True)]
    return Item(tuple(choices), right)
