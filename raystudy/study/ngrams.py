"""Counting n-grams, for a recipe's likeness to a validation set and for the trigram floor: no model, numpy alone.

Cross-entropy is that of an n-gram model with interpolated Witten-Bell smoothing (Witten & Bell, "The zero-frequency
problem", IEEE Trans. Inf. Theory 37, 1991, method C; in the form of Chen & Goodman 1998, section 2), which has nothing
to tune:

    p(w | h) = (c(h, w) + T(h) p(w | h')) / (c(h) + T(h))

where h' is h without its oldest token, T(h) the number of different tokens seen after h, and a history never seen
leaves p(w | h'). It ends in the mixture's unigram distribution, each source's counts with half a count added, so that
at order 1 the cross-entropy is the unigram floor.

Counts are of texts, and nothing is counted across two of them. What a text is, and what an n-gram of a source counts,
says who counts. For likeness (below) a source's documents are one text, or each of the windows in which a large source
is read, and each source's n-grams sum to its weight. The floor (train/floors.py) keeps documents apart.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.shards import RecipeView, TokenArray, ViewSource

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Texts = tuple[TokenArray, IntArray]  # their tokens, one after another; the length of each

MAX_ORDER = 3  # three token ids of 16 bits fit one key
_BITS = 16
_WINDOW = 256  # tokens read in one place of a source that is not read whole


class NgramCounts:
    """Different n-grams as `keys` (ascending int64, 16 bits a token, the last token lowest) and their counts.

    With `histories`, keys of n - 1 tokens, those that begin otherwise are not counted, which bounds memory.
    """

    def __init__(self, order: int, histories: IntArray | None = None) -> None:
        self.order = order
        self._histories = None if histories is None else np.unique(histories)
        self.keys: IntArray = np.zeros(0, dtype=np.int64)
        self.counts: FloatArray = np.zeros(0)

    def add(self, texts: Texts, weight: float) -> None:
        """Count each n-gram inside the texts `weight` times."""
        keys = ngram_keys(texts, self.order)
        if self._histories is not None:
            keys = keys[_look_up(self._histories, np.ones(len(self._histories)), keys >> _BITS) > 0]
        new, times = np.unique(keys, return_counts=True)
        both, places = np.unique(np.concatenate([self.keys, new]), return_inverse=True)
        weights = np.concatenate([self.counts, weight * times])
        self.keys, self.counts = both, np.bincount(places, weights, minlength=len(both)).astype(np.float64)

    def of(self, keys: IntArray) -> FloatArray:
        """The counts of `keys`, 0 for those never seen."""
        return _look_up(self.keys, self.counts, keys)

    def interpolated(self, keys: IntArray, shorter: FloatArray) -> FloatArray:
        """p(w | h) of each of `keys`, given p(w | h')."""
        if not len(self.keys):
            return shorter
        histories, firsts, kinds = np.unique(self.keys >> _BITS, return_index=True, return_counts=True)
        totals = np.add.reduceat(self.counts, firsts)
        total, kind = (_look_up(histories, values, keys >> _BITS) for values in (totals, kinds.astype(np.float64)))
        seen = total > 0
        return np.where(seen, (self.of(keys) + kind * shorter) / np.where(seen, total + kind, 1.0), shorter)


def ngram_keys(texts: Texts, order: int) -> IntArray:
    """One key for each n-gram inside the texts, in order."""
    tokens, ends = texts[0], np.flatnonzero(_places(texts) >= order - 1)
    keys = np.zeros(len(ends), dtype=np.int64)
    for back in reversed(range(order)):
        keys = (keys << _BITS) | tokens[ends - back]
    return keys


def histories_of(texts: Texts, order: int) -> IntArray:
    """The n-grams inside the texts without their last tokens: all that a model is asked for there."""
    return ngram_keys(texts, order) >> _BITS


def joined(documents: Sequence[TokenArray]) -> Texts:
    """Each document as a text."""
    return np.concatenate(documents), np.array([len(document) for document in documents], dtype=np.int64)


def log_probabilities(texts: Texts, unigram: FloatArray, counts: Sequence[NgramCounts]) -> FloatArray:
    """Of every token after the first of its text, given those before it; nats. `counts` are of orders 2, 3, ..."""
    places = _places(texts)
    places, tokens = places[places > 0], texts[0][places > 0]
    found = unigram[tokens]
    for own in counts:
        is_long = places >= own.order - 1
        found[is_long] = own.interpolated(ngram_keys(texts, own.order), found[is_long])
    return np.log(found)


def recipe_counts(
    view: RecipeView, order: int, most_tokens: int, histories: IntArray | None = None
) -> tuple[NgramCounts, int]:
    """The recipe's n-grams for likeness, weighted counts that sum to the number of tokens read, and that number.

    Of a recipe with more than `most_tokens` each source is read in evenly spread windows, as many as its weight asks.
    With `histories` only n-grams that begin so are kept.
    """
    is_whole = view.num_tokens <= most_tokens
    weight_sum = sum(source.weight for source in view.sources)
    read = [
        _read(source, source.num_tokens if is_whole else int(most_tokens * source.weight / weight_sum))
        for source in view.sources
    ]
    num_read = sum(len(tokens) for tokens, _ in read)
    sizes = [int(np.maximum(lengths - order + 1, 0).sum()) for _, lengths in read]
    counted = sum(source.weight for source, size in zip(view.sources, sizes, strict=True) if size)
    counts = NgramCounts(order, histories)
    for source, texts, size in zip(view.sources, read, sizes, strict=True):
        if size:
            counts.add(texts, num_read * source.weight / counted / size)
    return counts, num_read


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
    texts = joined(documents)
    read = [recipe_counts(view, level, most_tokens, histories_of(texts, level)) for level in range(2, order + 1)]
    logs = log_probabilities(texts, unigram_mixture(view), [counts for counts, _ in read])
    return -float(logs.mean()), sum(number for _, number in read)


def cosine(view: RecipeView, documents: Sequence[TokenArray], order: int, most_tokens: int) -> tuple[float, int]:
    """Cosine of the vectors of n-gram counts of recipe and documents, and the number of the recipe's tokens read."""
    recipe, num_read = recipe_counts(view, order, most_tokens)
    held = NgramCounts(order)
    held.add(joined(documents), 1.0)
    product = float(recipe.of(held.keys) @ held.counts)
    return product / float(np.linalg.norm(recipe.counts) * np.linalg.norm(held.counts)), num_read


def _read(source: ViewSource, most: int) -> Texts:
    """The source's tokens as one text where they are at most `most`, else evenly spread windows of them."""
    if source.num_tokens <= most:
        return source.read_tokens(0, source.num_tokens), np.array([source.num_tokens])
    length = min(_WINDOW, max(most, MAX_ORDER), source.num_tokens)
    starts = np.linspace(0, source.num_tokens - length, max(most // length, 1)).astype(np.int64)
    return joined([source.read_tokens(start, length) for start in starts.tolist()])


def _places(texts: Texts) -> IntArray:
    """Of every token the number of those before it in its text."""
    tokens, lengths = texts
    return np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _look_up(known: IntArray, values: FloatArray, keys: IntArray) -> FloatArray:
    """`values` at the places of `keys` among `known` (ascending), 0 where they are not."""
    if not len(known):
        return np.zeros(len(keys))
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, values[places], 0.0)
