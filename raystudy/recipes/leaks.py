"""Looks for validation text in what recipes train on: built shards against built validation sets.

Steps, sources and own copies of a file can bring a held-out document back in another form, so documents are compared
after building and by their letters and digits alone: case, blanks, punctuation and the cut into tokens do not count.
A document is found when half of its runs of RUN_CHARACTERS characters stand somewhere in the recipe's documents; the
recipe is leaked where 2% of a set's documents are found. Text whose words changed places or are replaced is not found,
nor is a document shorter than one run. Knows token shards and a tokenizer; nothing of training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.shards import IntArray, TokenArray, TokenShard, open_tokens, open_view_parts
from raystudy.recipes.overlap import HashArray
from raystudy.recipes.tokenizer import TokenizerFile

RUN_CHARACTERS = 64  # about 13 English words, as in `overlap.py`; a power of two
FOUND_SHARE = 0.5  # of a document's runs
LEAKED_SHARE = 0.02  # of a set's documents
_INCOMPLETE = "\ufffd"  # a token that holds part of a character decodes to this
_CHUNK_TOKENS = 500_000  # tokens looked at together; bounds memory to some 100 MB
_FILTER_BITS = 22  # of the table that most runs are ruled out by; 4 MB

Leaks = dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class _Characters:
    """For every token id the hashes of its letters and digits: `hashes[starts[id] : starts[id] + lengths[id]]`."""

    hashes: HashArray
    starts: IntArray
    lengths: IntArray

    def of(self, tokens: TokenArray) -> tuple[HashArray, IntArray]:
        """Hashes of all characters of `tokens`, and where each token's begin (one more: the end)."""
        lengths = self.lengths[tokens]
        bounds = np.zeros(len(tokens) + 1, dtype=np.int64)
        np.cumsum(lengths, out=bounds[1:])
        places = np.repeat(self.starts[tokens] - bounds[:-1], lengths) + np.arange(bounds[-1])
        return self.hashes[places], bounds


def find_leaks(
    root: StoragePath, shards: Mapping[str, str], validation: Mapping[str, str], tokenizer: TokenizerFile
) -> Leaks:
    """Share of documents found, by recipe and validation set, where it is LEAKED_SHARE or more.

    `shards` and `validation` map names to the digests of views and token shards on the storage `root`.

    Raises:
        DataError: shards are missing or damaged.
    """
    if not validation or not shards:
        return {}
    characters = _characters_of(tokenizer)
    held = {
        name: [_runs(characters, document[1:]) for document in open_tokens(root, digest, verify=False).documents()]
        for name, digest in validation.items()
    }
    wanted = np.unique(np.concatenate([runs for documents in held.values() for runs in documents]))
    hits: dict[str, tuple[IntArray, IntArray]] = {}
    leaks: Leaks = {}
    for recipe, digest in shards.items():
        seen = np.zeros(len(wanted), dtype=np.bool_)
        for part in open_view_parts(root, digest):
            if part.shard.digest not in hits:
                hits[part.shard.digest] = _hits(characters, part.shard, wanted)
            documents, numbers = hits[part.shard.digest]
            seen[numbers[np.isin(documents, part.kept)]] = True
        shares = {name: _share_found(documents, wanted, seen) for name, documents in held.items()}
        found = {name: share for name, share in shares.items() if share >= LEAKED_SHARE}
        if found:
            leaks[recipe] = found
    return leaks


def _characters_of(tokenizer: TokenizerFile) -> _Characters:
    pieces = tokenizer.decode([[number] for number in range(tokenizer.vocabulary_size)])
    codes: list[list[int]] = []
    for number, piece in enumerate(pieces):
        # A part of a character stands for itself, so that scripts whose characters take several tokens count too.
        is_whole = _INCOMPLETE not in piece
        codes.append([ord(c) for c in piece.lower() if c.isalnum()] if is_whole else [0x110000 + number])
    codes[tokenizer.end_of_text] = [-1]  # one of its own: no run over two documents is one of a validation document
    lengths = np.array([len(own) for own in codes], dtype=np.int64)
    flat = np.array([code for own in codes for code in own], dtype=np.int64)
    return _Characters(_scattered(flat.astype(np.uint64)), np.cumsum(lengths) - lengths, lengths)


def _scattered(values: HashArray) -> HashArray:
    """A hash of every value (the finaliser of SplitMix64, Steele, Lea & Flood 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _rolled(hashes: HashArray) -> HashArray:
    """A hash of every run of RUN_CHARACTERS, [characters - RUN_CHARACTERS + 1]: made of its halves', and so on."""
    length = 1
    while length < RUN_CHARACTERS:
        factor = np.uint64(2 * (0x9E3779B97F4A7C15 // (length + 1)) % 2**64 + 1)
        hashes = hashes[: max(len(hashes) - length, 0)] * factor + hashes[length:]
        length *= 2
    return hashes


def _runs(characters: _Characters, tokens: TokenArray) -> HashArray:
    """Sorted unique runs of one document."""
    return np.unique(_rolled(characters.of(tokens)[0]))


def _hits(characters: _Characters, shard: TokenShard, wanted: HashArray) -> tuple[IntArray, IntArray]:
    """Every place of the shard where one of the sorted `wanted` runs stands: its document, and the run's number."""
    mask = np.uint64(2**_FILTER_BITS - 1)
    table = np.zeros(2**_FILTER_BITS, dtype=np.bool_)
    table[wanted & mask] = True
    documents, numbers = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for first, last in _chunks(shard.offsets):
        tokens = shard.tokens[shard.offsets[first] : shard.offsets[last]]
        hashes, bounds = characters.of(tokens)
        rolled = _rolled(hashes)
        places = np.flatnonzero(table[rolled & mask])
        found = np.searchsorted(wanted, rolled[places]).clip(max=max(len(wanted) - 1, 0))
        exact = wanted[found] == rolled[places] if len(wanted) else np.zeros(0, dtype=np.bool_)
        begins = bounds[shard.offsets[first:last] - shard.offsets[first]]
        documents.append(first + np.searchsorted(begins, places[exact], side="right") - 1)
        numbers.append(found[exact])
    return np.concatenate(documents), np.concatenate(numbers)


def _chunks(offsets: IntArray) -> Iterator[tuple[int, int]]:
    """First and last (excluded) document of neighbours with about _CHUNK_TOKENS together."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last


def _share_found(documents: Sequence[HashArray], wanted: HashArray, seen: npt.NDArray[np.bool_]) -> float:
    """Share of the documents of at least one run of which FOUND_SHARE of the runs are seen; 0 if there are none."""
    found = [float(seen[np.searchsorted(wanted, runs)].mean()) >= FOUND_SHARE for runs in documents if len(runs)]
    return sum(found) / len(found) if found else 0.0
