"""How like a recipe's n-grams those of a validation set are, by counting: no model, numpy alone.

A recipe's counts are those of its sources, each scaled to its weight. Cross-entropy is that of an n-gram model with
interpolated Witten-Bell smoothing (Witten & Bell 1991, method C; in the form of Chen & Goodman 1998, section 2):

    p(w | h) = (c(h, w) + T(h) p(w | h')) / (c(h) + T(h))

where h' is h without its oldest token, T(h) the number of different tokens seen after h, and a history never seen
leaves p(w | h'). It ends in the mixture's unigram distribution, each source's counts with half a count added, so that
at order 1 the cross-entropy is the unigram floor. Nothing is counted across the windows that a large source is read in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.shards import RecipeView, TokenArray, ViewSource

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MAX_ORDER = 3  # three token ids of 16 bits fit one key
_BITS = 16
_WINDOW = 256  # tokens read in one place of a source that is not read whole


@dataclass(frozen=True)
class NgramCounts:
    """Different n-grams as `keys` (ascending int64, 16 bits a token, the last token lowest) and their counts."""

    order: int
    keys: IntArray
    counts: FloatArray

    def of(self, keys: IntArray) -> FloatArray:
        """The counts of `keys`, 0 for those never seen."""
        return _look_up(self.keys, self.counts, keys)


class NgramModel:
    """The smoothed n-gram model of a recipe. `counts` are of orders 2, 3, ...; `unigram` [vocabulary] sums to 1."""

    def __init__(self, unigram: FloatArray, counts: Sequence[NgramCounts]) -> None:
        self._unigram = unigram
        self._levels = []
        for own in counts:
            histories, firsts, kinds = np.unique(own.keys >> _BITS, return_index=True, return_counts=True)
            totals = np.add.reduceat(own.counts, firsts) if len(own.keys) else own.counts
            self._levels.append((own, histories, totals, kinds.astype(np.float64)))

    def log_probabilities(self, document: TokenArray) -> FloatArray:
        """Of every token after the first, given the tokens before it in the document; nats, [tokens - 1]."""
        tokens = document.astype(np.int64)
        found = self._unigram[tokens[1:]]
        for own, histories, totals, kinds in self._levels:
            keys = ngram_keys(document, own.order)
            if not len(keys):
                break
            start = len(found) - len(keys)
            total, kind = (_look_up(histories, values, keys >> _BITS) for values in (totals, kinds))
            seen = total > 0
            better = (own.of(keys) + kind * found[start:]) / np.where(seen, total + kind, 1.0)
            found[start:] = np.where(seen, better, found[start:])
        return np.log(found)


def ngram_keys(tokens: TokenArray, order: int) -> IntArray:
    """One key for each n-gram of `tokens`, in order; int64 [tokens - order + 1]."""
    count = max(len(tokens) - order + 1, 0)
    keys = np.zeros(count, dtype=np.int64)
    for place in range(order):
        keys = (keys << _BITS) | tokens[place : place + count]
    return keys


def recipe_counts(view: RecipeView, order: int, most_tokens: int) -> tuple[NgramCounts, int]:
    """The recipe's n-grams, weighted counts that sum to the number read, and the number of tokens read.

    Of a recipe with more than `most_tokens` each source is read in evenly spread windows, as many as its weight asks.
    """
    is_whole = view.num_tokens <= most_tokens
    weight_sum = sum(source.weight for source in view.sources)
    keys, counts, num_read = [], [], 0
    for source in view.sources:
        share = source.weight / weight_sum
        pieces = _pieces(source, source.num_tokens if is_whole else int(most_tokens * share))
        own, own_counts = np.unique(np.concatenate([ngram_keys(p, order) for p in pieces]), return_counts=True)
        keys.append(own)
        counts.append(own_counts * (share / max(own_counts.sum(), 1)))
        num_read += sum(len(piece) for piece in pieces)
    joint = _joined(order, np.concatenate(keys), np.concatenate(counts))
    scale = num_read / max(float(joint.counts.sum()), 1e-300)
    return NgramCounts(order, joint.keys, joint.counts * scale), num_read


def document_counts(documents: Sequence[TokenArray], order: int) -> NgramCounts:
    """The n-grams inside the documents, each counting the same."""
    keys = np.concatenate([ngram_keys(document, order) for document in documents])
    return _joined(order, keys, np.ones(len(keys)))


def unigram_mixture(view: RecipeView) -> FloatArray:
    """The recipe's unigram distribution [vocabulary], half a count added to each source's (Jeffreys prior)."""
    total = sum(source.weight for source in view.sources)
    weights = [source.weight / total for source in view.sources]
    return unigram_probabilities(weights, [source.unigram_counts for source in view.sources])


def unigram_probabilities(weights: Sequence[float], counts: Sequence[IntArray]) -> FloatArray:
    """The mixture, at these weights, of sources' token frequencies, half a count added to each; [vocabulary]."""
    return np.asarray(
        sum(
            weight * (count + 0.5) / (count.sum() + 0.5 * len(count))
            for weight, count in zip(weights, counts, strict=True)
        )
    )


def cross_entropy(view: RecipeView, documents: Sequence[TokenArray], order: int, most_tokens: int) -> tuple[float, int]:
    """Nats per token of the documents under the recipe's n-gram model, and the number of the recipe's tokens read.

    Every token after a document's first is scored, given at most order - 1 tokens of its document. At order 1 nothing
    is read: the counts lie beside the recipe.
    """
    read = [recipe_counts(view, level, most_tokens) for level in range(2, order + 1)]
    model = NgramModel(unigram_mixture(view), [counts for counts, _ in read])
    logs = [model.log_probabilities(document) for document in documents]
    num_scored = sum(len(own) for own in logs)
    return -float(sum(own.sum() for own in logs)) / num_scored, sum(number for _, number in read)


def cosine(view: RecipeView, documents: Sequence[TokenArray], order: int, most_tokens: int) -> tuple[float, int]:
    """Cosine of the vectors of n-gram counts of recipe and documents, and the number of the recipe's tokens read."""
    recipe, num_read = recipe_counts(view, order, most_tokens)
    held = document_counts(documents, order)
    product = float(recipe.of(held.keys) @ held.counts)
    return product / float(np.linalg.norm(recipe.counts) * np.linalg.norm(held.counts)), num_read


def _pieces(source: ViewSource, most: int) -> list[TokenArray]:
    """The source's tokens where they are at most `most`, else evenly spread windows of them."""
    if source.num_tokens <= most:
        return [source.read_tokens(0, source.num_tokens)]
    length = min(_WINDOW, max(most, MAX_ORDER), source.num_tokens)
    starts = np.linspace(0, source.num_tokens - length, max(most // length, 1)).astype(np.int64)
    return [source.read_tokens(start, length) for start in starts.tolist()]


def _joined(order: int, keys: IntArray, counts: FloatArray) -> NgramCounts:
    different, places = np.unique(keys, return_inverse=True)
    summed = np.bincount(places, weights=counts, minlength=len(different))
    return NgramCounts(order, different, summed.astype(np.float64))


def _look_up(known: IntArray, values: FloatArray, keys: IntArray) -> FloatArray:
    """`values` at the places of `keys` among `known` (ascending), 0 where they are not."""
    if not len(known):
        return np.zeros(len(keys))
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, values[places], 0.0)
