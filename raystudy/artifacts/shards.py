"""The only reader of shards on storage: token shards, and views that choose from them. `shard_writer` writes them.

`root/shards/<digest>/` holds either

- a token shard: `tokens.bin` (uint16, little endian), `documents.npy` (int64 [documents + 1], where each
  document begins), `document_bytes.npy` (int64 [documents], UTF-8 bytes of its text), `manifest.json`.
  Each document begins with the end-of-text token; or
- a view (a built recipe): per source its weight, the token shards it reads, which of their documents it
  keeps (`kept-<source>-<shard>.npy`, int64, ascending) and its token counts (`unigram-<source>.npy`,
  int64 [vocabulary]), `manifest.json`.

A digest covers what determines training, never a name. Knows nothing of text, tokenizers or models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.node_cache import on_this_node
from raystudy.artifacts.sealed import damaged, open_sealed
from raystudy.errors import DataError
from raystudy.specs.base import digest as spec_digest

TokenArray = npt.NDArray[np.uint16]
IntArray = npt.NDArray[np.int64]

MAX_VOCABULARY = 2**16  # token ids are kept as uint16
TOKEN_TYPE = np.dtype("<u2")


@dataclass(frozen=True)
class TokenShard:
    """Tokenised documents: `tokens` uint16 [num_tokens], `offsets` int64 [documents + 1], bytes [documents].

    `overlap`: by how much the windows overlap in which a validation set is scored, as a share.
    """

    digest: str
    vocabulary_size: int
    tokens: TokenArray
    offsets: IntArray
    document_bytes: IntArray
    overlap: float = 0.0

    @property
    def num_documents(self) -> int:
        return len(self.document_bytes)

    @property
    def document_tokens(self) -> IntArray:
        """Tokens of each document, its end-of-text token included; int64 [documents]."""
        return np.diff(self.offsets)

    def documents(self) -> list[TokenArray]:
        """One uint16 array per document, each beginning with the end-of-text token."""
        return [self.tokens[start:end] for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)]


@dataclass(frozen=True)
class Selected:
    """Documents of one token shard that a view's source keeps: ascending indices, int64."""

    shard: TokenShard
    kept: IntArray


class ViewSource:
    """One source as training reads it: its kept documents, one after another, read where they lie.

    Args:
        row: the source's entry in the view's manifest.
        parts: the kept documents; in the order of the manifest.
        unigram_counts: how often each token occurs in them, int64 [vocabulary].
    """

    def __init__(self, row: Mapping[str, Any], parts: Sequence[Selected], unigram_counts: IntArray) -> None:
        self.name: str = row["name"]
        self.weight: float = row["weight"]
        self.unigram_counts = unigram_counts
        self._parts = parts
        lengths = np.concatenate([part.shard.document_tokens[part.kept] for part in parts])
        ends = np.cumsum(lengths)
        self.num_documents = len(lengths)
        self.num_tokens = int(ends[-1])
        self._ends = ends
        # Added to a position in the concatenation, this gives the position in the document's own shard.
        self._shifts = np.concatenate([part.shard.offsets[part.kept] for part in parts]) - (ends - lengths)
        self._part_ends = ends[np.cumsum([len(part.kept) for part in parts]) - 1]
        self._tokens = [part.shard.tokens for part in parts]

    def chunks(self, num_tokens: int) -> Iterator[tuple[TokenArray, IntArray]]:
        """All its documents, whole, some `num_tokens` tokens at a time: their tokens, and the length of each."""
        for part in self._parts:
            lengths = part.shard.document_tokens[part.kept]
            cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // num_tokens)) + 1
            for own, size in zip(np.split(part.kept, cuts), np.split(lengths, cuts), strict=True):
                shifts = part.shard.offsets[own] - (np.cumsum(size) - size)
                yield part.shard.tokens[np.arange(size.sum()) + np.repeat(shifts, size)], size

    def windows(self, context: int) -> int:
        """How many windows of context + 1 tokens, `context` apart, the source holds.

        Raises:
            DataError: not even one.
        """
        count = (self.num_tokens - 1) // context
        if count < 1:
            raise DataError(
                f"a source must hold at least one window of {context + 1} tokens, but {self.name!r} holds "
                f"{self.num_tokens} tokens; give it more text or choose a shorter context"
            )
        return count

    def read_windows(self, indices: IntArray, context: int) -> TokenArray:
        """Windows number `indices` [count], each below `windows(context)`, as uint16 [count, context + 1]."""
        starts = np.asarray(indices, dtype=np.int64) * context
        return self._read(starts[:, None] + np.arange(context + 1))

    def read_tokens(self, first: int, count: int) -> TokenArray:
        """Tokens first .. first + count - 1 of the documents, one after another, as uint16 [count]."""
        return self._read(np.arange(first, first + count))

    def _read(self, places: IntArray) -> TokenArray:
        own_places = places + self._shifts[np.searchsorted(self._ends, places, side="right")]
        if len(self._tokens) == 1:
            return np.asarray(self._tokens[0][own_places], dtype=np.uint16)
        owners = np.searchsorted(self._part_ends, places, side="right")
        windows = np.empty(places.shape, dtype=np.uint16)
        for owner in np.unique(owners).tolist():
            mine = owners == owner
            windows[mine] = self._tokens[owner][own_places[mine]]
        return windows


@dataclass(frozen=True)
class RecipeView:
    """A built recipe; `manifest` is what lies in its manifest.json."""

    digest: str
    vocabulary_size: int
    sources: tuple[ViewSource, ...]
    manifest: Mapping[str, Any]

    @property
    def num_tokens(self) -> int:
        return sum(source.num_tokens for source in self.sources)


def open_tokens(root: StoragePath, digest: str, verify: bool = True) -> TokenShard:
    """The token shard called `digest`, memory-mapped.

    Raises:
        DataError: it is missing or damaged; with `verify` every file's SHA-256 is compared, once per process.
    """
    folder, manifest = shards_here(root, digest, "tokens", verify)
    return TokenShard(
        digest=digest,
        vocabulary_size=int(manifest["vocabulary_size"]),
        tokens=np.asarray(np.memmap(folder / "tokens.bin", dtype=TOKEN_TYPE, mode="r")),
        offsets=np.load(folder / "documents.npy"),
        document_bytes=np.load(folder / "document_bytes.npy"),
        overlap=float(manifest.get("overlap", 0.0)),
    )


def open_view(root: StoragePath, digest: str, verify: bool = True) -> RecipeView:
    """The built recipe called `digest`.

    Raises:
        DataError: it, or a token shard it reads, is missing or damaged.
    """
    folder, manifest = shards_here(root, digest, "view", verify)
    shards: dict[str, TokenShard] = {}
    sources = []
    for row in manifest["sources"]:
        for part in row["parts"]:
            if part["shard"] not in shards:
                shards[part["shard"]] = open_tokens(root, part["shard"], verify)
        parts = [Selected(shards[part["shard"]], np.load(folder / part["kept"])) for part in row["parts"]]
        sources.append(ViewSource(row, parts, np.load(folder / row["unigram"])))
    return RecipeView(digest, int(manifest["vocabulary_size"]), tuple(sources), manifest)


def open_view_parts(root: StoragePath, digest: str) -> list[Selected]:
    """The documents that the view called `digest` keeps, whatever their source; its checksums are not compared.

    Raises:
        DataError: it, or a token shard it reads, is missing.
    """
    folder, manifest = shards_here(root, digest, "view", verify=False)
    parts = [part for row in manifest["sources"] for part in row["parts"]]
    return [Selected(open_tokens(root, part["shard"], verify=False), np.load(folder / part["kept"])) for part in parts]


@dataclass(frozen=True)
class SourceSize:
    """What a view says of one of its sources: its share of the samples, and how many tokens it holds."""

    name: str
    weight: float
    num_tokens: int


def source_sizes(root: StoragePath, digest: str) -> list[SourceSize]:
    """The sources of the view called `digest`, from its manifest alone.

    Raises:
        DataError: it is missing, or its manifest is not what was written.
    """
    rows = open_shards(shard_folder(root, digest), "view", verify=False)["sources"]
    return [SourceSize(row["name"], row["weight"], row["tokens"]) for row in rows]


def digest_by_manifest(manifest: Mapping[str, Any]) -> str:
    """The digest that the manifest of any kind of shards stands for; raises KeyError or TypeError for another one."""
    if manifest["kind"] == "tokens":
        about = (manifest["vocabulary_size"], manifest["end_of_text"], manifest.get("overlap", 0.0))
        return tokens_digest(manifest["files"], *about)
    if manifest["kind"] == "view":
        return view_digest(manifest["sources"], manifest["files"])
    if manifest["kind"] == "items":
        return items_digest(manifest["files"], manifest["vocabulary_size"])
    return spec_digest(manifest["data"])  # synthetic: the data's spec is all there is


def tokens_size(root: StoragePath, digest: str) -> tuple[int, int]:
    """Of the token shard called `digest`: its tokens without those that begin documents, and its bytes of text.

    Raises:
        DamagedError: it is missing, or its manifest is not what was written.
    """
    manifest = open_shards(shard_folder(root, digest), "tokens", verify=False)
    return int(manifest["tokens"]) - int(manifest["documents"]), int(manifest["bytes"])


def shard_folder(root: StoragePath, digest: str) -> StoragePath:
    """Where the shards called `digest` lie on the storage."""
    return root / "shards" / digest


def shards_here(root: StoragePath, digest: str, kind: str, verify: bool = True) -> tuple[Path, dict[str, Any]]:
    """A local folder that holds the shards called `digest`, and their manifest.

    Raises:
        DamagedError: they are missing, damaged or of another kind.
        NodeFullError: this node has no room for what lies on a remote storage.
    """
    here = on_this_node(folder := shard_folder(root, digest), verify)
    return here, _checked(folder, open_sealed(here, verify), kind)


def shards_read_by(root: StoragePath, digest: str) -> list[str]:
    """The token shards that the view called `digest` reads; none for a token shard. Compares no checksums of files.

    Raises:
        DamagedError: there is no such folder, or its manifest is not what was written.
    """
    sources = open_shards(shard_folder(root, digest), None, verify=False).get("sources", ())
    return [part["shard"] for source in sources for part in source["parts"]]


def open_shards(folder: StoragePath, kind: str | None, verify: bool = True) -> dict[str, Any]:
    """The manifest on the storage, once it is seen to be of the folder's digest and, unless None, of this kind."""
    return _checked(folder, open_sealed(folder, verify), kind)


def _checked(folder: StoragePath, manifest: dict[str, Any], kind: str | None) -> dict[str, Any]:
    found = manifest.get("kind")
    if kind is not None and found != kind:
        raise damaged(folder, f"it holds {found!r} instead of {kind!r}")
    try:
        digest = digest_by_manifest(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, f"its manifest is foreign ({error!r})") from error
    if digest != folder.name:
        raise damaged(folder, f"its manifest is that of {digest}")
    return manifest


def tokens_digest(checksums: Mapping[str, str], vocabulary_size: int, end_of_text: int, overlap: float = 0.0) -> str:
    """The digest of a token shard whose files have these SHA-256 sums."""
    about = {"files": checksums, "vocabulary_size": vocabulary_size, "end_of_text": end_of_text}
    return spec_digest({**about, "overlap": overlap} if overlap else about)


def items_digest(checksums: Mapping[str, str], vocabulary_size: int) -> str:
    """The digest of a downstream task's items whose files have these SHA-256 sums."""
    return spec_digest({"items": checksums, "vocabulary_size": vocabulary_size})


def view_digest(rows: Sequence[Mapping[str, Any]], checksums: Mapping[str, str]) -> str:
    """The digest of a view with these sources, as its manifest lists them, and files of these SHA-256 sums."""
    return spec_digest([
        [row["weight"], [[part["shard"], checksums[part["kept"]]] for part in row["parts"]]] for row in rows
    ])  # fmt: skip
