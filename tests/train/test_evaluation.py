"""The rule by which validation text is scored, with and without overlap: every token once, by hand on a short text."""

import json

import numpy as np
import pytest
import torch

import raystudy.train.evaluation as evaluation
from raystudy.artifacts.shard_writer import write_tokens
from raystudy.artifacts.shards import open_tokens
from raystudy.recipes.build import build_validation
from raystudy.recipes.inputs import validation_inputs_digest
from raystudy.specs.base import canonical_json
from raystudy.specs.recipe import ValidationSet
from raystudy.train.decoder import Decoder
from raystudy.train.downstream import score_continuations
from raystudy.train.evaluation import ValidationDocuments, evaluate, windows
from tests.train.test_training import a_run

TEXT = np.array([0, 5, 9, 5, 7, 3, 2, 8], dtype=np.uint16)


def by_hand(model, cases: list[tuple[list[int], int]]) -> float:
    logits = [model(torch.tensor([inputs])).detach()[0, -1] for inputs, _ in cases]
    pairs = zip(logits, cases, strict=True)
    return -sum(float(torch.log_softmax(logit, dim=-1)[target]) for logit, (_, target) in pairs)


def test_with_an_overlap_of_half_each_later_token_has_half_a_window_before_it():
    model = Decoder(a_run("x", context=4).model, seed=0)
    # windows 0 5 9 5 -> 5 9 5 7, then 9 5 7 3 -> (5 7) 3 2, then 7 3 2 -> (3 2) 8
    cases = [([0], 5), ([0, 5], 9), ([0, 5, 9], 5), ([0, 5, 9, 5], 7)]
    cases += [([9, 5, 7], 3), ([9, 5, 7, 3], 2), ([7, 3, 2], 8)]
    result = evaluate(model, ValidationDocuments([TEXT], [9], overlap=0.5), 4, "cpu")
    assert result.loss_sum[0] == pytest.approx(by_hand(model, cases), rel=1e-5)
    assert result.num_tokens.tolist() == [7]


def test_with_the_largest_overlap_each_token_has_a_whole_window_before_it():
    model = Decoder(a_run("x", context=4).model, seed=0)
    tokens = TEXT.tolist()
    cases = [(tokens[max(0, place - 4) : place], tokens[place]) for place in range(1, len(tokens))]
    result = evaluate(model, ValidationDocuments([TEXT], [9], overlap=0.99), 4, "cpu")
    assert result.loss_sum[0] == pytest.approx(by_hand(model, cases), rel=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("context", [1, 3, 8, 50])
def test_every_token_is_a_target_once_at_any_overlap(overlap, context):
    lengths = [1, 2, 3, 8, 9, 10, 25]
    documents = ValidationDocuments(
        [np.arange(1, n + 1, dtype=np.uint16) for n in lengths], [1] * len(lengths), overlap
    )
    _, targets, owners = windows(documents, context)
    for owner, length in enumerate(lengths):
        scored = targets[owners == owner]
        assert sorted(scored[scored != -100].tolist()) == list(range(2, length + 1))


def test_fewer_windows_are_evaluated_at_once_where_their_logits_are_many_with_the_same_losses(data, monkeypatch):
    _, validation = data
    (documents,) = validation.values()
    model, sizes = Decoder(a_run("x").model, seed=0), []
    model.register_forward_hook(lambda _model, inputs, _logits: sizes.append(len(inputs[0])))
    usual = evaluate(model, documents, 16, "cpu")
    assert evaluation.rows_at_once(model, 16) == 64, "a small model has the rows it always had"
    assert len(sizes) == 1
    sizes.clear()
    monkeypatch.setattr(evaluation, "_MOST_LOGITS", 5 * 16 * 64)
    few = evaluate(model, documents, 16, "cpu")
    assert max(sizes) == 5
    np.testing.assert_allclose(few.loss_sum, usual.loss_sum, rtol=1e-5)
    sizes.clear()
    pairs = [(TEXT[:1], TEXT[1:5])] * 12
    score_continuations(model, pairs, 16, "cpu")
    assert sizes == [5, 5, 2]
    monkeypatch.setattr(evaluation, "_MOST_LOGITS", 1)
    assert evaluation.rows_at_once(model, 16) == 1


def test_the_overlap_is_part_of_the_sets_digest_and_none_is_what_it_always_was(tmp_path):
    documents = [TEXT[1:]]
    plain, half = (write_tokens(tmp_path, documents, [9], 64, 0, overlap) for overlap in (0.0, 0.5))
    assert plain != half
    assert (open_tokens(tmp_path, plain).overlap, open_tokens(tmp_path, half).overlap) == (0.0, 0.5)
    assert "overlap" not in json.loads((tmp_path / "shards" / plain / "manifest.json").read_text())
    source = {"kind": "embedded", "domains": ["licences"]}
    sets = [
        ValidationSet.model_validate_json(json.dumps({"source": source, "max_documents": 2} | o))
        for o in ({}, {"overlap": 0.5})
    ]
    assert "overlap" not in canonical_json(sets[0])
    first, second = (validation_inputs_digest(spec, "embedded") for spec in sets)
    assert first != second
    built = [open_tokens(tmp_path, build_validation(spec, "embedded", tmp_path)) for spec in sets]
    assert [shard.overlap for shard in built] == [0.0, 0.5]
    np.testing.assert_array_equal(built[0].tokens, built[1].tokens)
