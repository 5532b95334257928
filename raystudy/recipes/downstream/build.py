"""Builds the items of downstream tasks on storage, or finds them built from the same inputs."""

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.items import Item, write_items
from raystudy.artifacts.shards import open_tokens
from raystudy.recipes.downstream.continuation import continuation_items
from raystudy.recipes.downstream.harness import harness_identity, harness_questions
from raystudy.recipes.downstream.jsonl import jsonl_files, jsonl_questions
from raystudy.recipes.downstream.questions import encode_questions
from raystudy.recipes.inputs import find_built, keep_built
from raystudy.recipes.sources.text import sha256_of
from raystudy.recipes.tokenizer import TokenizerFile, open_tokenizer
from raystudy.specs.base import digest
from raystudy.specs.downstream import ContinuationTask, DownstreamTask, HarnessTask, JsonlTask

ITEMS_VERSION = 1  # raised whenever the same inputs would give other items


def task_inputs_digest(task: DownstreamTask, validation: str, tokenizer: str) -> str:
    """Of everything the items depend on, as far as this machine can know; `validation` is the set's digest, or "".

    Raises:
        DataError: own files or the tokenizer cannot be read.
        MissingPackageError: a task of the harness, which is not installed.
    """
    own: object = validation
    if isinstance(task, JsonlTask):
        own = [sha256_of(path) for path in jsonl_files(task)]
    elif isinstance(task, HarnessTask):
        own = harness_identity(task)
    places = {"files": (), "include": None, "validation": ""}  # where they lie does not matter, what they hold does
    plain = task.model_copy(update={name: place for name, place in places.items() if hasattr(task, name)})
    parts = {"version": ITEMS_VERSION, "tokenizer": open_tokenizer(tokenizer).digest, "task": plain, "own": own}
    return digest(parts)


def find_task(task: DownstreamTask, validation: str, tokenizer: str, root: StoragePath) -> str | None:
    """Digest of the task's items if they are built; raises as `task_inputs_digest`."""
    return find_built(root, task_inputs_digest(task, validation, tokenizer))


def build_task(task: DownstreamTask, validation: str, tokenizer: str, root: StoragePath) -> str:
    """Digest of the task's items on the storage `root`, built unless they are there.

    Raises:
        DataError: the task has no items, or its text cannot be had.
        MissingPackageError: a task of the harness, which is not installed.
        StorageError: the storage cannot be written.
    """
    inputs = task_inputs_digest(task, validation, tokenizer)
    found = find_built(root, inputs)
    if found is not None:
        return found
    opened = open_tokenizer(tokenizer)
    return keep_built(root, inputs, write_items(root, _items(task, validation, opened, root), opened.vocabulary_size))


def _items(task: DownstreamTask, validation: str, tokenizer: TokenizerFile, root: StoragePath) -> list[Item]:
    if isinstance(task, ContinuationTask):
        return continuation_items(task, open_tokens(root, validation), tokenizer)
    questions = jsonl_questions(task) if isinstance(task, JsonlTask) else harness_questions(task)
    return encode_questions(tokenizer, questions)
