"""Floors: the loss of a recipe's own n-gram counts on validation text, which a trained model must get under.

The trigram model is interpolated with bigrams and unigrams by Witten and Bell's rule (method C of "The zero-frequency
problem", IEEE Trans. Inf. Theory 37, 1991; in the interpolated form of Chen and Goodman 1998, section 2.5), which has
nothing to tune: with c occurrences of a history, after which T different tokens came,
p(w | history) = (c(history w) + T p(w | shorter history)) / (c + T). Counts are those of the mixture: each source's
are scaled to its weight's share of the recipe's tokens. The unigrams are the unigram floor's. Documents are apart: the
first token after end-of-text has a history of one token. Knows nothing of models or storage.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.shards import IntArray, RecipeView
from raystudy.study.ngrams import unigram_probabilities
from raystudy.train.evaluation import FloatArray, ValidationDocuments

# Of a recipe. At most so many different trigrams are held, at 16 bytes each and as much again while they are merged.
MOST_COUNTED_TOKENS = 20_000_000
_CHUNK_TOKENS = 2_000_000

BoolArray = npt.NDArray[np.bool_]
Chunk = tuple[npt.NDArray[np.integer], IntArray]  # tokens of documents, one after another; length of each


class _Counts:
    """Occurrences of n-grams by key, of those whose history is asked for; keys ascend."""

    def __init__(self, histories: IntArray, vocabulary: int) -> None:
        self.histories, self.vocabulary = np.unique(histories), vocabulary
        self.keys: IntArray = np.zeros(0, dtype=np.int64)
        self.counts: FloatArray = np.zeros(0)

    def add(self, keys: IntArray, weight: float) -> None:
        """Count each of `keys` (history x vocabulary + token) `weight` times."""
        asked = keys[_is_in(keys // self.vocabulary, self.histories)]
        new, times = np.unique(asked, return_counts=True)
        both, places = np.unique(np.concatenate([self.keys, new]), return_inverse=True)
        weights = np.concatenate([self.counts, weight * times])
        self.counts = np.bincount(places, weights, minlength=len(both)).astype(np.float64)
        self.keys = both

    def interpolated(self, keys: IntArray, shorter: FloatArray) -> FloatArray:
        """p(w | history) of each of `keys`, given that under the history without its first token."""
        owners = np.searchsorted(self.histories, self.keys // self.vocabulary)
        size = len(self.histories)
        totals, types = np.bincount(owners, self.counts, minlength=size), np.bincount(owners, minlength=size)
        asked = np.searchsorted(self.histories, keys // self.vocabulary)
        is_there = _is_in(keys, self.keys)
        own = np.zeros(len(keys))
        own[is_there] = self.counts[np.searchsorted(self.keys, keys[is_there])]
        seen = totals[asked] + types[asked]
        return np.asarray(np.where(seen > 0, (own + types[asked] * shorter) / np.where(seen > 0, seen, 1.0), shorter))


def trigram_losses(view: RecipeView, validation: Mapping[str, ValidationDocuments]) -> dict[str, float]:
    """Nats per token of the recipe's trigrams on each validation set, in one pass over the recipe's documents.

    Empty for a recipe of more than MOST_COUNTED_TOKENS tokens, which is not counted.
    """
    if view.num_tokens > MOST_COUNTED_TOKENS or not validation:
        return {}
    vocabulary = view.vocabulary_size
    grams = {digest: _grams(_joined(documents), vocabulary) for digest, documents in validation.items()}
    pairs = _Counts(np.concatenate([pair // vocabulary for pair, _, _ in grams.values()]), vocabulary)
    triples = _Counts(np.concatenate([triple // vocabulary for _, triple, _ in grams.values()]), vocabulary)
    for source in view.sources:
        scale = source.weight * view.num_tokens / source.num_tokens
        for chunk in source.chunks(_CHUNK_TOKENS):
            pair, triple, _ = _grams(chunk, vocabulary)
            pairs.add(pair, scale)
            triples.add(triple, scale)
    unigram = unigram_probabilities([s.weight for s in view.sources], [s.unigram_counts for s in view.sources])
    return {digest: _loss(*found, unigram, pairs, triples) for digest, found in grams.items()}


def _loss(
    pair: IntArray,
    triple: IntArray,
    has_two: BoolArray,
    unigram: FloatArray,
    pairs: _Counts,
    triples: _Counts,
) -> float:
    probability = pairs.interpolated(pair, unigram[pair % pairs.vocabulary])
    probability[has_two] = triples.interpolated(triple, probability[has_two])
    return -float(np.log(probability).mean())


def _joined(documents: ValidationDocuments) -> Chunk:
    tokens = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents.tokens])
    return tokens, np.array([len(document) for document in documents.tokens], dtype=np.int64)


def _grams(chunk: Chunk, vocabulary: int) -> tuple[IntArray, IntArray, BoolArray]:
    """Keys of all pairs and triples inside documents, in order, and which pairs have a triple that ends with them."""
    tokens, lengths = chunk[0].astype(np.int64), chunk[1]
    places = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # inside its document
    second, third = np.flatnonzero(places >= 1), np.flatnonzero(places >= 2)
    pair = tokens[second - 1] * vocabulary + tokens[second]
    triple = (tokens[third - 2] * vocabulary + tokens[third - 1]) * vocabulary + tokens[third]
    return pair, triple, places[second] >= 2


def _is_in(values: IntArray, ascending: IntArray) -> BoolArray:
    """Whether each value is among `ascending`, which holds each once."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[places] == values)
