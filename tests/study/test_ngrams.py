"""Counting n-grams: by hand on short texts, the unigram floor, and a probability that sums to 1."""

import numpy as np
import pytest

from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import Selected, open_tokens, open_view
from raystudy.study import ngrams
from raystudy.study.ngrams import (
    NgramCounts,
    cosine,
    cross_entropy,
    joined,
    log_probabilities,
    ngram_keys,
    recipe_counts,
    unigram_mixture,
)
from raystudy.train.evaluation import ValidationDocuments, unigram_loss

WHOLE = 10**9


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.uint16)


def a_view(root, sources: dict[str, tuple[float, list[np.ndarray]]], vocabulary: int = 5):
    """A recipe whose documents begin with token 0."""
    drafts = []
    for name, (weight, documents) in sources.items():
        shard = open_tokens(root, write_tokens(root, documents, [9] * len(documents), vocabulary, 0))
        drafts.append(SourceDraft(name, weight, (Selected(shard, np.arange(len(documents))),)))
    return open_view(root, write_view(root, "r", drafts))


@pytest.fixture
def view(tmp_path):
    # as written to a shard: 0 1 2 1 2 | 0 1 3, and 0 4 4
    return a_view(tmp_path, {"a": (0.75, [tokens(1, 2, 1, 2), tokens(1, 3)]), "b": (0.25, [tokens(4, 4)])})


def test_keys_are_one_to_one_for_the_largest_token_ids():
    assert ngram_keys(joined([tokens(65535, 0, 65535)]), 3).tolist() == [(65535 << 32) | 65535]
    assert ngram_keys(joined([tokens(1, 2)]), 3).tolist() == []
    assert len(np.unique(ngram_keys(joined([tokens(0, 1, 0, 256, 1, 1)]), 2))) == 5


def test_no_ngram_reaches_over_two_texts():
    texts = joined([tokens(1, 2, 3), tokens(4), tokens(5, 6)])
    assert ngram_keys(texts, 1).tolist() == [1, 2, 3, 4, 5, 6]
    assert ngram_keys(texts, 2).tolist() == [(1 << 16) | 2, (2 << 16) | 3, (5 << 16) | 6]
    assert ngram_keys(texts, 3).tolist() == [(1 << 32) | (2 << 16) | 3]


def test_where_histories_are_asked_for_others_are_not_kept(view):
    whole, _ = recipe_counts(view, 2, WHOLE)
    counts, num_read = recipe_counts(view, 2, WHOLE, np.array([4, 1, 1]))
    assert (counts.keys >> 16).tolist() == [1, 1, 4]
    assert counts.counts.tolist() == whole.of(counts.keys).tolist()
    assert num_read == 11


def test_a_recipes_counts_are_its_sources_counts_at_their_weights(view):
    counts, num_read = recipe_counts(view, 2, WHOLE)
    assert num_read == 11
    # a: 01 12 21 12 20 01 13; b: 04 44; weights 3/4 and 1/4 of 11
    by_pair = {(int(k) >> 16, int(k) & 65535): c for k, c in zip(counts.keys, counts.counts, strict=True)}
    a, b = 11 * 0.75 / 7, 11 * 0.25 / 2
    expected = {(0, 1): 2 * a, (1, 2): 2 * a, (2, 1): a, (2, 0): a, (1, 3): a, (0, 4): b, (4, 4): b}
    assert by_pair == pytest.approx(expected)


def test_cross_entropy_is_witten_bell_worked_by_hand(view):
    unigram = unigram_mixture(view)
    (pairs, _), (triples, _) = recipe_counts(view, 2, WHOLE), recipe_counts(view, 3, WHOLE)
    a, b = 11 * 0.75 / 7, 11 * 0.25 / 2
    # p(1 | 0): c = 2a of 2a + b, two kinds; p(2 | 1): c = 2a of 3a, two kinds; p(1 | 3): 3 has nothing after it
    first = (2 * a + 2 * unigram[1]) / (2 * a + b + 2)
    second = (2 * a + 2 * unigram[2]) / (3 * a + 2)
    # p(2 | 0 1): triples of a are 012 121 212 120 201 013, of b 044
    c = 11 * 0.75 / 6
    third = (c + 2 * second) / (2 * c + 2)
    logs = log_probabilities(joined([tokens(0, 1, 2), tokens(3, 1)]), unigram, [pairs, triples])
    np.testing.assert_allclose(logs, np.log([first, third, unigram[1]]))
    value, num_read = cross_entropy(view, [tokens(0, 1, 2), tokens(3, 1)], 3, WHOLE)
    assert value == pytest.approx(-np.log([first, third, unigram[1]]).sum() / 3)
    assert num_read == 22


@pytest.mark.parametrize("history", [(0, 1), (4, 4), (2, 3), (3, 3)])
def test_the_model_is_a_distribution_after_every_history(view, history):
    counts, texts = [recipe_counts(view, order, WHOLE)[0] for order in (2, 3)], [tokens(*history, w) for w in range(5)]
    probabilities = np.exp(log_probabilities(joined(texts), unigram_mixture(view), counts))[1::2]
    assert sum(probabilities) == pytest.approx(1.0)


def test_at_order_one_it_is_the_unigram_floor_and_reads_nothing(view):
    documents = [tokens(0, 1, 2, 4), tokens(0, 3)]
    held = ValidationDocuments(documents, [9, 9])
    floor = unigram_loss(held, [s.weight for s in view.sources], [s.unigram_counts for s in view.sources])
    value, num_read = cross_entropy(view, documents, 1, WHOLE)
    assert value == pytest.approx(floor, rel=1e-12)
    assert num_read == 0


def test_cosine_of_a_recipe_with_its_own_documents_is_one_and_with_others_none_is_zero(tmp_path):
    document = tokens(0, 1, 2, 1)
    own = a_view(tmp_path, {"a": (1.0, [document[1:]])})
    for order in (1, 2, 3):
        assert cosine(own, [document], order, WHOLE)[0] == pytest.approx(1.0)
    assert cosine(own, [tokens(4, 3)], 1, WHOLE)[0] == 0.0
    # recipe 01 12 21 against 01 13: one pair of three shared with one of two
    assert cosine(own, [tokens(0, 1, 3)], 2, WHOLE)[0] == pytest.approx(1 / np.sqrt(3 * 2))
    counts = NgramCounts(2)
    counts.add(joined([tokens(0, 1), tokens(0, 1)]), 1.0)
    assert counts.counts.tolist() == [2.0]


def test_more_of_the_same_text_lowers_a_higher_orders_cross_entropy_below_the_floor(tmp_path):
    generator = np.random.default_rng(0)
    chains = [np.cumsum(generator.integers(1, 3, size=400)) % 29 + 1 for _ in range(30)]
    documents = [chain.astype(np.uint16) for chain in chains]
    view = a_view(tmp_path, {"a": (1.0, documents[:25])}, vocabulary=32)
    held = [np.concatenate([[0], d]).astype(np.uint16) for d in documents[25:]]
    floor, pairs = (cross_entropy(view, held, order, WHOLE)[0] for order in (1, 2))
    assert pairs == pytest.approx(np.log(2), abs=0.05)  # the chain's entropy: one of two steps
    assert floor == pytest.approx(np.log(29), abs=0.05)


def test_a_large_recipe_is_read_in_part_at_its_weights_and_says_how_much(tmp_path, monkeypatch):
    monkeypatch.setattr(ngrams, "_WINDOW", 16)
    generator = np.random.default_rng(0)
    draw = {name: [generator.integers(1, 5, size=500).astype(np.uint16)] for name in "ab"}
    view = a_view(tmp_path, {"a": (0.8, draw["a"]), "b": (0.2, draw["b"])})
    counts, num_read = recipe_counts(view, 2, 320)
    assert num_read == 256 + 64
    assert counts.counts.sum() == pytest.approx(num_read)
    whole, _ = recipe_counts(view, 2, WHOLE)
    np.testing.assert_allclose(counts.of(whole.keys) / 320, whole.counts / whole.counts.sum(), atol=0.05)
