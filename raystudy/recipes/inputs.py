"""Cheap digests of everything that a build depends on, and the pointers from them to finished shards.

`root/built/<inputs digest>.json` holds the digest of the shards that were built from those inputs, so
that nothing is read, filtered or tokenised twice. Knows nothing of how shards are made.
"""

import re
from dataclasses import dataclass

from raystudy.artifacts.files import StoragePath, read_json, write_json
from raystudy.artifacts.sealed import is_sealed
from raystudy.artifacts.shards import shard_folder, shards_read_by
from raystudy.errors import DamagedError, DataError, StorageError, UnreadableError
from raystudy.recipes.sources import SOURCES, SourcePart
from raystudy.recipes.tokenizer import TokenizerFile, open_tokenizer
from raystudy.specs.base import digest
from raystudy.specs.recipe import EmbeddedSource, TextRecipe, TextSource, ValidationSet

_DIGEST = re.compile(r"[0-9a-f]{32}")
BUILD_VERSION = 1  # raised whenever the same inputs would give other shards


@dataclass(frozen=True)
class SourceInputs:
    """One source that counts (weight above 0), with its parts."""

    name: str
    weight: float
    max_bytes: int | None
    parts: tuple[SourcePart, ...]


def recipe_inputs(recipe: TextRecipe) -> tuple[SourceInputs, ...]:
    """The recipe's sources with normalised weights, in their order; every missing own file is listed at once."""
    found, problems = [], []
    for name, weight in recipe.weights().items():
        source = recipe.sources[name]
        try:
            found.append(SourceInputs(name, weight, source.max_bytes, source_parts(source, held_out=False)))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return tuple(found)


def source_parts(source: EmbeddedSource | TextSource, held_out: bool) -> tuple[SourcePart, ...]:
    """The source's parts: what recipes read, or what is kept from them."""
    return SOURCES[source.kind](source, held_out)


def inputs_digest(recipe: TextRecipe, tokenizer: str) -> str:
    """Of everything the build of `recipe` depends on; names, family and description are not in it."""
    return recipe_digest(recipe, recipe_inputs(recipe), open_tokenizer(tokenizer))


def recipe_digest(recipe: TextRecipe, sources: tuple[SourceInputs, ...], tokenizer: TokenizerFile) -> str:
    """As `inputs_digest`, for sources and a tokenizer that are open."""
    return digest({
        "version": BUILD_VERSION,
        "tokenizer": tokenizer.digest,
        "sources": [[[part.identity for part in s.parts], s.weight, s.max_bytes] for s in sources],
        "steps": recipe.steps,
        "tokens": recipe.tokens,
    })  # fmt: skip


def validation_inputs_digest(validation: ValidationSet, tokenizer: str) -> str:
    """Of everything the build of `validation` depends on."""
    return digest({
        "version": BUILD_VERSION,
        "tokenizer": open_tokenizer(tokenizer).digest,
        "validation": [part.identity for part in source_parts(validation.text_source, held_out=True)],
        "limits": [validation.text_source.max_bytes, validation.max_documents, validation.max_document_bytes],
        **({"overlap": validation.overlap} if validation.overlap else {}),
    })  # fmt: skip


def part_digest(part: SourcePart, tokenizer: TokenizerFile) -> str:
    """Of everything the tokens of one part of a source depend on."""
    return digest(["tokens", BUILD_VERSION, part.identity, tokenizer.digest])


def find_built(root: StoragePath, inputs: str) -> str | None:
    """Digest of the finished shards for these inputs; None where there are none or a folder of them is gone.

    Raises:
        DamagedError: the pointer or the manifest is torn or foreign.
    """
    path = root / "built" / f"{inputs}.json"
    try:
        pointer = read_json(path)
    except UnreadableError:
        raise
    except StorageError as error:
        raise DamagedError(str(error), path) from error
    if pointer is None:
        return None
    shards = pointer.get("digest") if isinstance(pointer, dict) else None
    if not isinstance(shards, str) or not _DIGEST.fullmatch(shards):
        raise DamagedError(f"{path} must hold the digest of shards, but does not", path)
    return shards if are_there(root, shards) else None


def are_there(root: StoragePath, shards: str) -> bool:
    """Whether the shards of this digest, and those that they read, are on the storage, whole or damaged.

    Raises:
        DamagedError: their manifest is torn or foreign.
    """
    if not is_sealed(shard_folder(root, shards)):
        return False
    return all(is_sealed(shard_folder(root, shard)) for shard in shards_read_by(root, shards))


def keep_built(root: StoragePath, inputs: str, shards: str) -> str:
    """Note that these inputs gave the shards of this digest, and return it."""
    write_json(root / "built" / f"{inputs}.json", {"digest": shards})
    return shards
