"""Answers to multiple-choice items: scored by hand, each token once; metrics by hand from log-probabilities."""

import json
import math

import numpy as np
import pytest
import torch

from raystudy.artifacts.downstream import answers_path, read_answers, task_metrics, write_answers
from raystudy.artifacts.items import Choice, Item, open_items, write_items
from raystudy.errors import DamagedError, DataError, RaystudyError, StorageError
from raystudy.execute.downstream_work import answer
from raystudy.specs.downstream import TASK_METRICS
from raystudy.specs.reading import Reading
from raystudy.train.decoder import Decoder
from raystudy.train.downstream import continuation_windows, score_continuations
from tests.downstream.known_model import PairModel
from tests.train.test_training import a_run


def tokens(*ids: int):
    return np.array(ids, dtype=np.uint16)


def log_probability(model, inputs: list[int], target: int) -> float:
    logits = model(torch.tensor([inputs])).detach()[0, -1]
    return float(torch.log_softmax(logits, dim=-1)[target])


def test_every_token_of_a_continuation_is_scored_once_given_what_stands_before_it_in_its_window():
    model = Decoder(a_run("x", context=4).model, seed=0)
    short, long = (tokens(0, 9), tokens(5, 7)), (tokens(0, 9), tokens(5, 7, 3, 2, 8, 1))
    none, alone = (tokens(0, 9), tokens()), (tokens(0), tokens(5))
    scores = score_continuations(model, [short, long, none, alone], 4, "cpu")
    by_hand = log_probability(model, [0, 9], 5) + log_probability(model, [0, 9, 5], 7)
    assert scores[0].log_probability == pytest.approx(by_hand, rel=1e-5)
    # 0 9 | 5 7 3 2 8 1 with 4 inputs a window: 3 2 8 1 from (7) (7 3) (7 3 2) (7 3 2 8), then 5 7 from (0 9) (0 9 5)
    by_hand += sum(log_probability(model, [7, 3, 2, 8][: n + 1], [3, 2, 8, 1][n]) for n in range(4))
    assert scores[1].log_probability == pytest.approx(by_hand, rel=1e-5)
    assert scores[2].log_probability == 0.0
    assert scores[3].log_probability == pytest.approx(log_probability(model, [0], 5), rel=1e-5)
    with pytest.raises(ValueError, match="must hold at least one token"):
        score_continuations(model, [(tokens(), tokens(1))], 4, "cpu")


@pytest.mark.gpu
def test_answers_on_a_gpu_are_those_on_a_cpu_within_rounding():
    model = Decoder(a_run("x", context=16).model, seed=0)
    generator = np.random.default_rng(0)
    draw = [generator.integers(0, 64, size).astype(np.uint16) for size in (1, 3, 9, 30)]
    pairs = [(before, after) for before in draw for after in draw]
    on_cpu = score_continuations(model, pairs, 16, "cpu")
    on_gpu = score_continuations(model.to("cuda"), pairs, 16, "cuda")
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-4)


def test_what_of_the_context_does_not_fit_is_cut_from_its_left():
    model = Decoder(a_run("x", context=4).model, seed=0)
    (far,) = score_continuations(model, [(tokens(0, 1, 2, 3, 4, 5), tokens(6, 7))], 4, "cpu")
    near = log_probability(model, [3, 4, 5], 6) + log_probability(model, [3, 4, 5, 6], 7)
    assert far.log_probability == pytest.approx(near, rel=1e-5)


@pytest.mark.parametrize("context", [1, 2, 5, 64])
def test_windows_cover_a_continuation_without_overlap_or_gap(context):
    for before in range(1, 9):
        for after in range(9):
            ends, covered = before + after, []
            for start, scored in continuation_windows(tokens(*range(before)), tokens(*range(after)), context):
                assert ends - start - 1 <= context
                covered += range(ends - scored, ends)
                ends -= scored
            assert sorted(covered) == list(range(before, before + after))


def an_item(context: list[int], choices: list[list[int]], right: int, characters: list[int]) -> Item:
    parts = zip(choices, characters, strict=True)
    return Item(tuple(Choice(tokens(0, *context), tokens(*choice), count) for choice, count in parts), right)


ITEMS = (
    an_item([1], [[2], [3], [4]], 0, [1, 1, 1]),  # the model says 1 -> 2: right
    an_item([1], [[3, 3], [2, 2], [4, 4]], 2, [1, 8, 1]),  # the model prefers the second, which is wrong
)


def test_a_model_with_known_answers_gets_the_metrics_worked_out_by_hand(tmp_path):
    model = PairModel(8, {1: 2}, strength=2.0)
    digest = write_items(tmp_path, ITEMS, 8)
    shard = open_items(tmp_path, digest)
    assert [item.right for item in shard.items] == [0, 2]
    run = a_run("x", vocabulary=8, context=8)
    answers = answer(model, run, shard, "cpu")
    after_one, other = math.log(math.exp(2) + 7), math.log(8)  # log of the softmax's sum after 1, and elsewhere
    first = [2 - after_one, -after_one, -after_one]
    second = [-after_one - other, 2 - after_one - other, -after_one - other]
    np.testing.assert_allclose(answers["log_probability"], [first, second], rtol=1e-5)
    metrics = task_metrics(answers)
    assert list(metrics) == list(TASK_METRICS)
    share_first, share_second = math.exp(2) / (math.exp(2) + 2), 1 / (math.exp(2) + 2)
    per_character = second[2] - max(second[0], second[1] / 8)
    by_hand = {
        "accuracy": 0.5,
        "accuracy-per-character": 0.5,
        "probability": (share_first + share_second) / 2,
        "margin": (2 - 2) / 2,
        "margin-per-character": (2 + per_character) / 2,
        "log-probability": (first[0] + second[2]) / 2,
        "log-probability-per-character": (first[0] + second[2]) / 2,
    }
    assert metrics == pytest.approx(by_hand, rel=1e-5, abs=1e-6)


def test_length_decides_where_it_should_and_a_tie_goes_to_the_first():
    long_right = {"right": [1], "log_probability": [[-3.0, -4.0]], "characters": [[1, 10]]}
    metrics = task_metrics(long_right)
    assert (metrics["accuracy"], metrics["accuracy-per-character"]) == (0.0, 1.0)
    tied = {"right": [1], "log_probability": [[-3.0, -3.0]], "characters": [[1, 1]]}
    assert (task_metrics(tied)["accuracy"], task_metrics(tied)["probability"]) == (0.0, 0.5)


def test_probabilities_stay_finite_for_long_texts():
    metrics = task_metrics({"right": [0], "log_probability": [[-4000.0, -5000.0]], "characters": [[900, 900]]})
    assert metrics["probability"] == 1.0


def test_items_of_another_vocabulary_are_refused(tmp_path):
    shard = open_items(tmp_path, write_items(tmp_path, ITEMS, 8))
    with pytest.raises(DataError, match=r"must be of the model's vocabulary \(64\)"):
        answer(PairModel(64, {}), a_run("x"), shard, "cpu")


def test_a_model_whose_logits_overflow_is_told_and_leaves_no_answers(tmp_path):
    shard = open_items(tmp_path, write_items(tmp_path, ITEMS, 8))
    with pytest.raises(RaystudyError, match=r"6 of 6 have none by run .* its logits overflow"):
        answer(PairModel(8, {1: 2, 0: 2}, strength=float("nan")), a_run("x", vocabulary=8), shard, "cpu")


def test_items_with_a_changed_byte_are_damaged(tmp_path):
    digest = write_items(tmp_path, ITEMS, 8)
    path = tmp_path / "shards" / digest / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(DamagedError, match=r"tokens\.bin has SHA-256"):
        open_items(tmp_path, digest)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"log_probability": [[-1.0, None]]}, "finite log-probabilities"),
        ({"log_probability": [[-1.0]]}, "finite log-probabilities"),
        ({"characters": [[1, 0]]}, "finite log-probabilities"),
        ({"right": [2]}, "a right choice"),
        ({"run_id": "other"}, "is of 'other'"),
        ({"items": 3}, "must name items"),
        ({"format": "raystudy-answers/9"}, "must be of format"),
    ],
)
def test_answers_that_are_not_what_they_should_be_are_not_read(tmp_path, change, told):
    answers = {"run_id": "r", "items": "i", "step": 3, "readout": "last", "right": [0]}
    answers |= {"log_probability": [[-1.0, -2.0]], "characters": [[1, 2]]}
    write_answers(tmp_path, answers)
    assert read_answers(tmp_path, "r", "i", Reading(step=3))["right"] == [0]
    path = answers_path(tmp_path, "i", Reading(step=3))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match=told):
        read_answers(tmp_path, "r", "i", Reading(step=3))
