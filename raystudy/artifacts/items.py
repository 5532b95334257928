"""Multiple-choice items on storage: the only reader and writer of what a downstream task asks, in tokens.

`root/shards/<digest>/` holds `tokens.bin` (uint16, little endian: each choice's context, then its continuation, one
after another), `choices.npy` (int64 [choices, 3]: context tokens, continuation tokens, characters of the choice's
text), `items.npy` (int64 [items, 2]: number of choices, place of the right one) and `manifest.json`. The digest covers
them, never a task's name, so that equal items are one task. Knows nothing of text, tokenizers or models.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.node_cache import write_sealed
from raystudy.artifacts.sealed import damaged, sha256
from raystudy.artifacts.shards import TOKEN_TYPE, IntArray, TokenArray, items_digest, shard_folder, shards_here


@dataclass(frozen=True)
class Choice:
    """A context and a continuation of it, uint16; `num_characters` of the choice's own text, at least 1."""

    context: TokenArray
    continuation: TokenArray
    num_characters: int


@dataclass(frozen=True)
class Item:
    """Choices, and the place of the right one. Contexts may differ from choice to choice."""

    choices: tuple[Choice, ...]
    right: int


@dataclass(frozen=True)
class ItemShard:
    """The items of one task."""

    digest: str
    vocabulary_size: int
    items: tuple[Item, ...]


def write_items(root: StoragePath, items: Sequence[Item], vocabulary_size: int) -> str:
    """Write the items, at least one, unless they are there; returns their digest."""
    choices = [choice for item in items for choice in item.choices]
    tokens = np.concatenate([part for choice in choices for part in (choice.context, choice.continuation)])
    sizes = [[len(choice.context), len(choice.continuation), choice.num_characters] for choice in choices]
    contents = {
        "tokens.bin": tokens.astype(TOKEN_TYPE).tobytes(),
        "choices.npy": _npy(np.array(sizes, dtype=np.int64)),
        "items.npy": _npy(np.array([[len(item.choices), item.right] for item in items], dtype=np.int64)),
    }
    digest = items_digest({name: sha256(content) for name, content in contents.items()}, vocabulary_size)
    manifest = {
        "kind": "items",
        "vocabulary_size": vocabulary_size,
        "items": len(items),
        "choices": len(choices),
        "tokens": len(tokens),
    }
    write_sealed(shard_folder(root, digest), contents, manifest)
    return digest


def open_items(root: StoragePath, digest: str) -> ItemShard:
    """The items called `digest`; every file's SHA-256 is compared, once per process.

    Raises:
        DamagedError: they are missing, or are not what was written.
    """
    folder, manifest = shards_here(root, digest, "items")
    tokens = np.fromfile(folder / "tokens.bin", dtype=TOKEN_TYPE)
    sizes, rows = np.load(folder / "choices.npy"), np.load(folder / "items.npy")
    if sizes[:, :2].sum() != len(tokens) or rows[:, 0].sum() != len(sizes):
        raise damaged(shard_folder(root, digest), "its counts do not add up")
    ends = np.cumsum(sizes[:, :2].reshape(-1))
    parts = np.split(tokens, ends[:-1])
    choices = [Choice(parts[2 * i], parts[2 * i + 1], int(size[2])) for i, size in enumerate(sizes)]
    starts = np.cumsum(rows[:, 0]) - rows[:, 0]
    items = tuple(
        Item(tuple(choices[start : start + count]), int(right))
        for start, (count, right) in zip(starts.tolist(), rows.tolist(), strict=True)
    )
    return ItemShard(digest, int(manifest["vocabulary_size"]), items)


def _npy(array: IntArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
