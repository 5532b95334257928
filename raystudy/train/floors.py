"""Floors: the loss of a recipe's own trigrams on validation text, which a trained model must get under.

The model is that of study/ngrams.py. Documents are apart: the first token after end-of-text has a history of one token.
Counts are those of the mixture: each source's are scaled to its weight's share of the recipe's tokens. The unigrams are
the unigram floor's. Knows nothing of models or storage.
"""

from collections.abc import Mapping

import numpy as np

from raystudy.artifacts.shards import RecipeView
from raystudy.study.ngrams import NgramCounts, histories_of, joined, log_probabilities, unigram_probabilities
from raystudy.train.evaluation import ValidationDocuments

# Of a recipe. At most so many different trigrams are held, at 16 bytes each and as much again while they are merged.
MOST_COUNTED_TOKENS = 20_000_000
_CHUNK_TOKENS = 2_000_000


def trigram_losses(view: RecipeView, validation: Mapping[str, ValidationDocuments]) -> dict[str, float]:
    """Nats per token of the recipe's trigrams on each validation set, in one pass over the recipe's documents.

    Empty for a recipe of more than MOST_COUNTED_TOKENS tokens, which is not counted.
    """
    if view.num_tokens > MOST_COUNTED_TOKENS or not validation:
        return {}
    texts = {digest: joined(documents.tokens) for digest, documents in validation.items()}
    levels = [
        NgramCounts(order, np.concatenate([histories_of(own, order) for own in texts.values()])) for order in (2, 3)
    ]
    for source in view.sources:
        for chunk in source.chunks(_CHUNK_TOKENS):
            for counts in levels:
                counts.add(chunk, source.weight * view.num_tokens / source.num_tokens)
    unigram = unigram_probabilities([s.weight for s in view.sources], [s.unigram_counts for s in view.sources])
    return {digest: -float(log_probabilities(own, unigram, levels).mean()) for digest, own in texts.items()}
