"""The trigram floor: by hand on a short text, the mixture's own counts, the same in any cutting, and kept."""

import numpy as np
import pytest

from raystudy.artifacts.floors import floor_path, read_floor
from raystudy.artifacts.shard_writer import SourceDraft, write_tokens, write_view
from raystudy.artifacts.shards import RecipeView, Selected, open_tokens, open_view
from raystudy.execute.floor_work import trigram_floors
from raystudy.study.ngrams import unigram_probabilities
from raystudy.train import floors
from raystudy.train.evaluation import ValidationDocuments, unigram_loss
from raystudy.train.floors import trigram_losses

VOCABULARY = 5


def a_view(root, *sources: tuple[float, list[list[int]]]) -> RecipeView:
    """A recipe of sources given as weight and documents (without their end-of-text, which is 0)."""
    drafts = []
    for place, (weight, documents) in enumerate(sources):
        tokens = [np.array(document, dtype=np.uint16) for document in documents]
        shard = open_tokens(root, write_tokens(root, tokens, [1] * len(tokens), VOCABULARY, 0))
        drafts.append(SourceDraft(f"s{place}", weight, (Selected(shard, np.arange(len(tokens))),)))
    return open_view(root, write_view(root, "r", drafts))


def held_out(*documents: list[int]) -> ValidationDocuments:
    return ValidationDocuments([np.array([0, *d], dtype=np.uint16) for d in documents], [1] * len(documents))


def unigrams(view: RecipeView):
    return unigram_probabilities([s.weight for s in view.sources], [s.unigram_counts for s in view.sources])


def test_a_short_text_by_hand(tmp_path):
    view = a_view(tmp_path, (1.0, [[1, 2, 3], [1, 2, 4], [1, 2, 3]]))
    p = unigrams(view)
    # 0 -> 1 three times and nothing else; 1 -> 2 three times; 2 -> 3 twice and 4 once; 3 and 4 end documents
    after_start = (3 + 1 * p[1]) / (3 + 1)
    two_after_1 = (3 + 1 * p[2]) / (3 + 1)
    two_after_0_1 = (3 + 1 * two_after_1) / (3 + 1)
    four_after_2 = (1 + 2 * p[4]) / (3 + 2)
    four_after_1_2 = (1 + 2 * four_after_2) / (3 + 2)
    expected = -np.mean(np.log([after_start, two_after_0_1, four_after_1_2]))
    assert trigram_losses(view, {"v": held_out([1, 2, 4])})["v"] == pytest.approx(expected)
    # 4 -> 1 was never seen: from the unigrams alone; 4 after 0 was not, but 0 was: what is left after its one kind
    unseen = -np.mean(np.log([1 * p[4] / 4, p[1]]))
    assert trigram_losses(view, {"v": held_out([4, 1])})["v"] == pytest.approx(unseen)


def test_probabilities_after_any_history_sum_to_one(tmp_path):
    generator = np.random.default_rng(0)
    sources = [(weight, [generator.integers(1, 5, 9).tolist() for _ in range(6)]) for weight in (0.8, 0.2)]
    view = a_view(tmp_path, *sources)
    for history in ([1, 2], [3, 3], [4, 1]):
        one = -trigram_losses(view, {"v": held_out(history)})["v"] * 2
        logs = [-trigram_losses(view, {"v": held_out([*history, w])})["v"] * 3 - one for w in range(VOCABULARY)]
        assert np.exp(logs).sum() == pytest.approx(1)


def test_the_counts_are_the_mixtures_and_not_those_of_the_text_as_it_lies(tmp_path):
    view = a_view(tmp_path, (0.75, [[1, 2]]), (0.25, [[1, 3], [1, 3]]))
    p = unigrams(view)
    # 3 and 6 of 9 tokens: a pair of the first source counts 0.75 x 9 / 3 = 2.25, of the second 0.25 x 9 / 6 = 0.375
    first = (3 + 1 * p[1]) / (3 + 1)
    two_after_1 = (2.25 + 2 * p[2]) / (2.25 + 0.75 + 2)
    two_after_0_1 = (2.25 + 2 * two_after_1) / (2.25 + 0.75 + 2)
    expected = -np.mean(np.log([first, two_after_0_1]))
    assert trigram_losses(view, {"v": held_out([1, 2])})["v"] == pytest.approx(expected)


def test_it_is_lower_than_the_unigram_floor_and_the_same_however_the_text_is_cut(shard_storage, monkeypatch):
    storage, view_digest, validation = shard_storage
    view, shard = open_view(storage, view_digest), open_tokens(storage, validation)
    documents = {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    whole = trigram_losses(view, documents)[validation]
    weights, counts = [s.weight for s in view.sources], [s.unigram_counts for s in view.sources]
    assert whole < unigram_loss(documents[validation], weights, counts) - 1
    monkeypatch.setattr(floors, "_CHUNK_TOKENS", 100)
    assert trigram_losses(view, documents)[validation] == pytest.approx(whole, rel=1e-12)


def test_a_recipe_too_large_to_count_has_no_floor(tmp_path, monkeypatch):
    view = a_view(tmp_path, (1.0, [[1, 2, 3]]))
    monkeypatch.setattr(floors, "MOST_COUNTED_TOKENS", 3)
    assert trigram_floors(tmp_path, view, {"v": held_out([1])}) == {"v": None}


def test_a_floor_is_worked_out_once_and_a_torn_one_again(tmp_path, monkeypatch):
    view = a_view(tmp_path, (1.0, [[1, 2, 3]]))
    loss = trigram_floors(tmp_path, view, {"v": held_out([1])})["v"]
    assert read_floor(tmp_path, view.digest, "v") == loss
    counted = []
    monkeypatch.setattr(floors, "trigram_losses", lambda *_: counted.append(1) or {"v": loss})
    assert trigram_floors(tmp_path, view, {"v": held_out([1])}) == {"v": loss}
    assert not counted
    floor_path(tmp_path, view.digest, "v").write_text('{"format": "raystudy-floor/1", "trigram_loss": -1')
    assert trigram_floors(tmp_path, view, {"v": held_out([1])}) == {"v": loss}
    assert counted == [1]
