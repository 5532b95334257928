"""Builds recipes and validation sets: sources + steps -> shards on storage, or finds them finished.

Every part of a source is tokenised once and shared by all recipes; steps that only drop documents give
a view of it, steps that change text write tokens of their own. All text of a recipe is held in
memory. Knows nothing of models or training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import Selected, TokenShard, open_tokens
from raystudy.errors import DataError
from raystudy.recipes.documents import hash_order
from raystudy.recipes.inputs import (
    SourceInputs,
    find_built,
    inputs_digest,
    keep_built,
    part_digest,
    recipe_digest,
    recipe_inputs,
    source_parts,
    validation_inputs_digest,
)
from raystudy.recipes.sources import SourcePart
from raystudy.recipes.steps import STEPS
from raystudy.recipes.tokenizer import TokenizerFile, open_tokenizer
from raystudy.specs.recipe import Step, TextRecipe, ValidationSet

__all__ = [
    "build_recipe",
    "build_validation",
    "find_recipe",
    "find_validation",
    "inputs_digest",
    "validation_inputs_digest",
]


@dataclass(frozen=True)
class _Place:
    """Where a document comes from: numbers of its source, of the part in it, of the document in that."""

    source: int
    part: int
    index: int


@dataclass
class _Document:
    place: _Place
    text: str
    changed: bool = False


def build_recipe(recipe: TextRecipe, tokenizer: str, root: StoragePath) -> str:
    """Digest of the recipe's view on the storage `root`, built unless it is there.

    `tokenizer` is `embedded` or the path of a tokenizer.json.

    Raises:
        DataError: text cannot be read, or a source keeps no document.
        StorageError: the storage cannot be written.
    """
    opened = open_tokenizer(tokenizer)
    sources = recipe_inputs(recipe)
    inputs = recipe_digest(recipe, sources, opened)
    found = find_built(root, inputs)
    if found is not None:
        return found
    documents = _apply_steps(_read_documents(sources), recipe.steps)
    drafts = tuple(
        _draft_source(recipe, number, source, documents, opened, root) for number, source in enumerate(sources)
    )
    return keep_built(root, inputs, write_view(root, recipe.name, drafts, recipe.tokens))


def find_recipe(recipe: TextRecipe, tokenizer: str, root: StoragePath) -> str | None:
    """Digest of the recipe's view if it is built; reads own files only to compare their checksums.

    Raises:
        DataError: own files or the tokenizer cannot be read.
    """
    return find_built(root, inputs_digest(recipe, tokenizer))


def find_validation(validation: ValidationSet, tokenizer: str, root: StoragePath) -> str | None:
    """Digest of the validation set's token shard if it is built; raises as `find_recipe`."""
    return find_built(root, validation_inputs_digest(validation, tokenizer))


def build_validation(validation: ValidationSet, tokenizer: str, root: StoragePath) -> str:
    """Digest of the validation set's token shard on the storage `root`, built unless it is there.

    Documents are cut to `max_document_bytes`, then `max_documents` of them are kept in hash order.

    Raises:
        DataError: text cannot be read, or nothing of it is held out.
        StorageError: the storage cannot be written.
    """
    inputs = validation_inputs_digest(validation, tokenizer)
    found = find_built(root, inputs)
    if found is not None:
        return found
    parts = source_parts(validation.text_source, held_out=True)
    texts = [text for part in parts for text in part.read()]
    kept = _within_bytes(texts, validation.text_source.max_bytes)
    cut = [_cut_to_bytes(texts[index], validation.max_document_bytes) for index in kept]
    cut = [text for text in cut if text]
    chosen = [cut[index] for index in sorted(hash_order(cut)[: validation.max_documents])]
    if not chosen:
        raise DataError(
            f"a validation set must hold at least one document, but of {len(texts)} held-out documents in "
            f"{', '.join(part.label for part in parts)} none is left; raise `holdout`, `max_bytes` or "
            f"`max_document_bytes`, or give it other files"
        )
    written = _write_texts(root, chosen, open_tokenizer(tokenizer), validation.overlap)
    return keep_built(root, inputs, written)


def _read_documents(sources: Sequence[SourceInputs]) -> list[_Document]:
    """All documents in the order of sources, parts and files, each source cut to its `max_bytes`."""
    documents = []
    for number, source in enumerate(sources):
        own = [
            _Document(_Place(number, place, index), text)
            for place, part in enumerate(source.parts)
            for index, text in enumerate(part.read())
        ]
        documents += [own[index] for index in _within_bytes([document.text for document in own], source.max_bytes)]
    return documents


def _within_bytes(texts: Sequence[str], max_bytes: int | None) -> list[int]:
    """Ascending indices of the documents that fit, taken in hash order until one does not."""
    if max_bytes is None:
        return list(range(len(texts)))
    return _take(hash_order(texts), [len(text.encode()) for text in texts], max_bytes)


def _take(order: Sequence[int], sizes: Sequence[int], limit: float) -> list[int]:
    taken = []
    total = 0
    for index in order:
        total += sizes[index]
        if total > limit:
            break
        taken.append(index)
    return sorted(taken)


def _apply_steps(documents: list[_Document], steps: Sequence[Step]) -> list[_Document]:
    for step in steps:
        after = STEPS[step.step](step, [document.text for document in documents])
        documents = [
            _Document(document.place, text, document.changed or text != document.text)
            for document, text in zip(documents, after, strict=True)
            if text
        ]
    return documents


def _draft_source(
    recipe: TextRecipe,
    number: int,
    source: SourceInputs,
    documents: Sequence[_Document],
    tokenizer: TokenizerFile,
    root: StoragePath,
) -> SourceDraft:
    """The source's kept documents as token shards and indices, cut to its share of the token budget."""
    own = [document for document in documents if document.place.source == number]
    selected: list[tuple[Selected, list[_Document]]] = []
    for place, part in enumerate(source.parts):
        kept = [document for document in own if document.place.part == place]
        if kept:
            selected.append((_select(part, kept, tokenizer, root), kept))
    drafts = tuple(selection for selection, _ in selected)
    sizes = [size for draft in drafts for size in draft.shard.document_tokens[draft.kept].tolist()]
    if recipe.tokens is not None:
        texts = [document.text for _, kept in selected for document in kept]
        drafts = _cut(drafts, _take(hash_order(texts), sizes, recipe.tokens * source.weight))
    if not drafts:
        budget = "" if recipe.tokens is None else f" within {recipe.tokens * source.weight:.0f} tokens"
        raise DataError(
            f"every source must keep text, but source {source.name!r} of recipe {recipe.name!r} keeps no document"
            f"{budget}: {len(own)} documents of {sum(sizes)} tokens were left after its {len(recipe.steps)} steps; "
            f"loosen the steps, raise `tokens`, or leave the source out"
        )
    return SourceDraft(source.name, source.weight, drafts)


def _select(part: SourcePart, kept: Sequence[_Document], tokenizer: TokenizerFile, root: StoragePath) -> Selected:
    """The kept documents in the part's shared shard, or in a shard of their own if a step changed one."""
    if any(document.changed for document in kept):
        shard = open_tokens(root, _write_texts(root, [document.text for document in kept], tokenizer))
        return Selected(shard, np.arange(len(kept), dtype=np.int64))
    indices = np.array([document.place.index for document in kept], dtype=np.int64)
    return Selected(_shared_shard(part, tokenizer, root), indices)


def _shared_shard(part: SourcePart, tokenizer: TokenizerFile, root: StoragePath) -> TokenShard:
    inputs = part_digest(part, tokenizer)
    found = find_built(root, inputs)
    return open_tokens(root, found or keep_built(root, inputs, _write_texts(root, part.read(), tokenizer)))


def _write_texts(root: StoragePath, texts: Sequence[str], tokenizer: TokenizerFile, overlap: float = 0.0) -> str:
    lengths, size = [len(text.encode()) for text in texts], tokenizer.vocabulary_size
    return write_tokens(root, tokenizer.encode(texts), lengths, size, tokenizer.end_of_text, overlap)


def _cut(drafts: Sequence[Selected], taken: Sequence[int]) -> tuple[Selected, ...]:
    """The selections cut to the documents at the places `taken` (ascending) of their concatenation."""
    places = np.array(taken, dtype=np.int64)
    cut = []
    first = 0
    for draft in drafts:
        own = places[(places >= first) & (places < first + len(draft.kept))] - first
        first += len(draft.kept)
        if len(own):
            cut.append(Selected(draft.shard, draft.kept[own]))
    return tuple(cut)


def _cut_to_bytes(text: str, max_bytes: int) -> str:
    """The longest beginning of `text` that has at most `max_bytes` in UTF-8."""
    return text.encode()[:max_bytes].decode(errors="ignore")
