"""The only writer of token shards and views; `shards` states their format and reads them."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.node_cache import write_sealed
from raystudy.artifacts.sealed import sha256
from raystudy.artifacts.shards import (
    MAX_VOCABULARY,
    TOKEN_TYPE,
    IntArray,
    Selected,
    TokenArray,
    shard_folder,
    tokens_digest,
    view_digest,
)
from raystudy.errors import DataError


@dataclass(frozen=True)
class SourceDraft:
    """One source of a view to be written; `weight` above 0, need not be normalised."""

    name: str
    weight: float
    parts: tuple[Selected, ...]


def write_tokens(
    root: StoragePath,
    documents: Sequence[TokenArray],
    document_bytes: Sequence[int],
    vocabulary_size: int,
    end_of_text: int,
    overlap: float = 0.0,
) -> str:
    """Write a token shard and return its digest; `documents` come without the end-of-text token.

    `overlap`: by how much the windows overlap in which a validation set is scored, as a share.

    Raises:
        DataError: the vocabulary has ids that the shard's type of number cannot hold.
    """
    if vocabulary_size > MAX_VOCABULARY:
        raise DataError(
            f"a shard's vocabulary must have at most {MAX_VOCABULARY} tokens, which are kept as {TOKEN_TYPE.name}, but "
            f"has {vocabulary_size}; choose a smaller tokenizer"
        )
    offsets = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum([len(document) + 1 for document in documents], out=offsets[1:])
    tokens = np.empty(int(offsets[-1]), dtype=TOKEN_TYPE)
    tokens[offsets[:-1]] = end_of_text
    for start, document in zip(offsets[:-1], documents, strict=True):
        tokens[start + 1 : start + 1 + len(document)] = document
    contents = {
        "tokens.bin": tokens.tobytes(),
        "documents.npy": _npy(offsets),
        "document_bytes.npy": _npy(np.asarray(document_bytes, dtype=np.int64)),
    }
    checksums = {name: sha256(content) for name, content in contents.items()}
    digest = tokens_digest(checksums, vocabulary_size, end_of_text, overlap)
    manifest = {
        "kind": "tokens",
        "vocabulary_size": vocabulary_size,
        "end_of_text": end_of_text,
        "documents": len(documents),
        "tokens": len(tokens),
        "bytes": int(sum(document_bytes)),
        **({"overlap": overlap} if overlap else {}),
    }
    write_sealed(shard_folder(root, digest), contents, manifest)
    return digest


def write_view(
    root: StoragePath, recipe_name: str, sources: Sequence[SourceDraft], budget_tokens: int | None = None
) -> str:
    """Write a view and return its digest; every source must keep at least one document.

    `recipe_name` and `budget_tokens` are shown in the manifest and are no part of the digest.
    """
    total_weight = sum(source.weight for source in sources)
    contents: dict[str, bytes] = {}
    rows = [_source_row(number, source, total_weight, contents) for number, source in enumerate(sources)]
    tokens = sum(row["tokens"] for row in rows)
    for row in rows:
        # How often a run of `budget_tokens` (without a budget: of the view's tokens) reads the source.
        row["epochs"] = row["weight"] * (budget_tokens or tokens) / row["tokens"]
    digest = view_digest(rows, {name: sha256(content) for name, content in contents.items()})
    manifest = {
        "kind": "view",
        "recipe": recipe_name,
        "vocabulary_size": sources[0].parts[0].shard.vocabulary_size,
        "documents": sum(row["documents"] for row in rows),
        "tokens": tokens,
        "unique_tokens": _unique_tokens([part for source in sources for part in source.parts]),
        "bytes": sum(row["bytes"] for row in rows),
        "budget_tokens": budget_tokens,
        "sources": rows,
    }
    write_sealed(shard_folder(root, digest), contents, manifest)
    return digest


def _source_row(number: int, source: SourceDraft, total_weight: float, contents: dict[str, bytes]) -> dict[str, Any]:
    """The source's entry in the manifest; its files are added to `contents`."""
    counts = np.zeros(source.parts[0].shard.vocabulary_size, dtype=np.int64)
    parts = []
    for place, part in enumerate(source.parts):
        documents = part.shard.documents()
        counts += np.bincount(np.concatenate([documents[i] for i in part.kept.tolist()]), minlength=len(counts))
        parts.append({"shard": part.shard.digest, "kept": f"kept-{number}-{place}.npy"})
        contents[parts[-1]["kept"]] = _npy(part.kept.astype(np.int64))
    contents[f"unigram-{number}.npy"] = _npy(counts)
    return {
        "name": source.name,
        "weight": source.weight / total_weight,
        "parts": parts,
        "unigram": f"unigram-{number}.npy",
        "documents": sum(len(part.kept) for part in source.parts),
        "tokens": int(counts.sum()),
        "unique_tokens": _unique_tokens(source.parts),
        "bytes": int(sum(part.shard.document_bytes[part.kept].sum() for part in source.parts)),
    }


def _unique_tokens(parts: Sequence[Selected]) -> int:
    """Tokens of the documents, those with the same tokens counted once."""
    lengths: dict[bytes, int] = {}
    for part in parts:
        documents = part.shard.documents()
        for index in part.kept.tolist():
            lengths[hashlib.sha256(documents[index].tobytes()).digest()] = len(documents[index])
    return sum(lengths.values())


def _npy(array: IntArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
