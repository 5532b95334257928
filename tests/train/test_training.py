"""Training: schedules, parameter counts, evaluation checked by hand, the same spec the same losses."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.specs.model import DecoderSpec, count_parameters, training_flops_per_token
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.schedules import Cosine, WarmupStableDecay
from raystudy.specs.training import AdamW, RunSettings
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import ValidationDocuments, evaluate, unigram_loss
from raystudy.train.optimizer import build_optimizer
from raystudy.train.process import reset_state
from raystudy.train.run import load_weights, train
from raystudy.train.schedule import lr_factor


def a_run(view: str, steps: int = 20, lr: float = 1e-2, seed: int = 0, **model) -> TrainRun:
    shape = {"layers": 2, "width": 16, "heads": 2, "context": 16, "vocabulary": 64} | model
    schedule = WarmupStableDecay(kind="wsd", warmup=0.1, decay=0.2)
    settings = RunSettings(steps=steps, batch_sequences=4, lr=lr, schedule=schedule, optimizer=AdamW(), clip=1.0)
    resolved = ResolvedDecoder(kind="decoder", **shape)
    return TrainRun(kind="train", shards=view, model=resolved, settings=settings, seed=seed, numerics=NUMERICS)


@pytest.fixture(scope="module")
def data(shard_storage):
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    return open_view(storage, view), {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}


def losses(outcome) -> list[float]:
    return [row["loss"] for row in outcome.curve] + [e.nats_per_token for e in outcome.final.values()]


def test_wsd_rises_stays_and_falls():
    factors = [lr_factor(WarmupStableDecay(kind="wsd", warmup=0.2, decay=0.3), step, 10) for step in range(10)]
    np.testing.assert_allclose(factors, [0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])
    assert lr_factor(WarmupStableDecay(kind="wsd", warmup=0, decay=0), 9, 10) == 1.0


def test_cosine_ends_at_its_final_share():
    factors = [lr_factor(Cosine(kind="cosine", warmup=0.2, final=0.1), step, 11) for step in range(11)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[-1] == pytest.approx(0.1)
    assert factors[6] == pytest.approx(0.55)
    assert all(a >= b for a, b in itertools.pairwise(factors[1:]))


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_counts_without_torch_are_those_of_the_model(tied):
    spec = DecoderSpec(kind="decoder", layers=3, width=24, heads=2, context=20, mlp_ratio=3, tie_embeddings=tied)
    model = Decoder(ResolvedDecoder(**spec.model_dump(), vocabulary=50), seed=0)
    counts = count_parameters(spec, 50)
    assert counts.total == sum(p.numel() for p in model.parameters())
    assert counts.embedding == model.tokens.weight.numel() + model.positions.weight.numel()
    # 6 N + 12 L d T, worked by hand for one layer of width 2, context 2, vocabulary 3, ratio 1
    small = DecoderSpec(kind="decoder", layers=1, width=2, heads=1, context=2, mlp_ratio=1)
    assert count_parameters(small, 3).non_embedding == (16 + 8) + (8 + 4) + 8 + 4
    assert training_flops_per_token(small, 3) == 6 * (48 + 6) + 12 * 2 * 2


def test_a_token_sees_only_the_tokens_before_it():
    model = Decoder(a_run("x").model, seed=0)
    tokens = torch.randint(0, 64, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 64
    torch.testing.assert_close(model(tokens)[0, :10], model(changed)[0, :10])
    assert not torch.allclose(model(tokens)[0, 10:], model(changed)[0, 10:])


def test_weight_decay_acts_on_matrices_only():
    model = Decoder(a_run("x").model, seed=0)
    groups = build_optimizer(model, AdamW(weight_decay=0.3), 1e-3).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert groups[0]["weight_decay"] == 0.3
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert groups[1]["weight_decay"] == 0.0
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_every_token_after_the_first_is_scored_once_with_the_context_of_its_window():
    reset_state(0)
    model = Decoder(a_run("x", context=4).model, seed=0)
    tokens = np.array([0, 5, 9, 5, 7, 3, 2], dtype=np.uint16)
    # by hand: windows of 4 inputs, so 5 9 5 7 are predicted from (0) (0 5) (0 5 9) (0 5 9 5), then 3 2 from (7) (7 3)
    expected = 0.0
    for inputs, target in [([0], 5), ([0, 5], 9), ([0, 5, 9], 5), ([0, 5, 9, 5], 7), ([7], 3), ([7, 3], 2)]:
        logits = model(torch.tensor([inputs])).detach()[0, -1]
        expected -= float(torch.log_softmax(logits, dim=-1)[target])
    result = evaluate(model, ValidationDocuments([tokens, tokens[:2]], [12, 1]), 4, "cpu")
    assert result.num_tokens.tolist() == [6, 1]
    assert result.loss_sum[0] == pytest.approx(expected, rel=1e-5)
    assert result.nats_per_token == pytest.approx(result.loss_sum.sum() / 7)
    assert result.bits_per_byte == pytest.approx(result.loss_sum.sum() / math.log(2) / 13)


def test_the_unigram_floor_is_the_mixtures_own_word_counts():
    documents = ValidationDocuments([np.array([0, 1, 2, 1], dtype=np.uint16)], [3])
    counts = [np.array([0, 8, 0]), np.array([0, 0, 4])]
    first, second = np.array([0.5, 8.5, 0.5]) / 9.5, np.array([0.5, 0.5, 4.5]) / 5.5
    mixture = 0.75 * first + 0.25 * second
    expected = -(2 * np.log(mixture[1]) + np.log(mixture[2])) / 3
    assert unigram_loss(documents, [0.75, 0.25], counts) == pytest.approx(expected)


def test_a_model_that_learns_beats_the_unigram_floor_and_moves(data):
    view, validation = data
    outcome = train(a_run(view.digest, steps=150), view, validation)
    (digest,) = validation
    assert outcome.status == "finished"
    assert outcome.final[digest].nats_per_token < outcome.unigram[digest] < outcome.initial[digest].nats_per_token + 0.2
    assert outcome.moved["share_of_weights_changed"] > 0.9
    assert outcome.moved["relative_loss_drop"] > 0.1
    assert outcome.epochs[0] > 0


def test_the_same_spec_gives_the_same_losses_as_the_tenth_run_of_a_used_process(data):
    view, validation = data
    run = a_run(view.digest)
    first = train(run, view, validation)
    for seed in range(1, 9):
        train(a_run(view.digest, steps=3, lr=10.0, seed=seed, width=8), view, validation)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(99)
    tenth = train(run, view, validation)
    assert losses(first) == losses(tenth)
    assert losses(train(a_run(view.digest, seed=1), view, validation)) != losses(first)


_FRESH = """
import json, sys
from pathlib import Path
from raystudy.specs.run import TrainRun
from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.run import train
storage, run, validation = Path(sys.argv[1]), TrainRun.model_validate_json(sys.argv[2]), sys.argv[3]
shard = open_tokens(storage, validation)
documents = {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
outcome = train(run, open_view(storage, run.shards), documents)
print(json.dumps([row["loss"] for row in outcome.curve] + [e.nats_per_token for e in outcome.final.values()]))
"""


def test_the_same_spec_gives_the_same_losses_in_a_fresh_process(data, shard_storage):
    view, validation = data
    run = a_run(view.digest)
    arguments = [str(shard_storage[0]), run.model_dump_json(), shard_storage[2]]
    done = subprocess.run([sys.executable, "-c", _FRESH, *arguments], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == losses(train(run, view, validation)), done.stderr


def test_losses_are_those_of_this_version_of_the_numerics(data):
    """Golden losses: when this changes for a reason, NUMERICS rises and old runs are no longer the same runs."""
    view, validation = data
    golden = json.loads((Path(__file__).parent / "golden.json").read_text())
    assert golden["numerics"] == NUMERICS
    found = losses(train(a_run(view.digest, steps=10), view, validation))
    np.testing.assert_allclose(found, golden["losses"], rtol=2e-4)


def test_a_huge_learning_rate_is_a_diverged_run_and_no_error(data):
    view, validation = data
    outcome = train(a_run(view.digest, steps=40, lr=1e4), view, validation)
    assert outcome.status == "diverged"


def test_kept_weights_evaluate_to_the_same_loss(data):
    view, validation = data
    run = a_run(view.digest)
    outcome = train(run, view, validation)
    (digest,) = validation
    again = evaluate(load_weights(run, outcome.weights), validation[digest], run.model.context, "cpu")
    np.testing.assert_array_equal(again.loss_sum, outcome.final[digest].loss_sum)
