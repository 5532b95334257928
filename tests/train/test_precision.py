"""Precision: what stays FP32, the negative control, and figures of movement that tell them apart."""

import math

import pytest
import torch

from raystudy.errors import RaystudyError
from raystudy.specs.schedules import Constant
from raystudy.train.moved import rms_logit_change
from raystudy.train.run import evaluate_all, load_weights, train
from raystudy.train.training import Training
from tests.train.test_training import a_run, losses


def in_precision(precision: str, view, lr: float = 1e-2, steps: int = 20):
    run = a_run(view.digest, steps=steps, lr=lr, width=32)
    return run.model_copy(update={"precision": precision})


def test_at_a_tiny_learning_rate_fp32_weights_move_and_bf16_weights_do_not(data):
    view, validation = data
    moved = {
        p: train(in_precision(p, view, lr=1e-6), view, validation).moved
        for p in ("fp32", "bf16-autocast", "bf16-weights")
    }
    assert moved["fp32"]["share_of_weights_changed"] > 0.999
    assert moved["bf16-autocast"]["share_of_weights_changed"] > 0.999
    assert moved["bf16-weights"]["share_of_weights_changed"] < 0.1
    assert moved["bf16-weights"]["relative_loss_drop"] < 0.3 * moved["fp32"]["relative_loss_drop"]
    assert moved["fp32"]["cumulative_lr"] == moved["bf16-weights"]["cumulative_lr"]


@pytest.mark.parametrize("precision", ["bf16-autocast", "bf16-weights"])
def test_a_precision_changes_losses_a_little_and_is_repeatable(data, precision):
    view, validation = data
    exact = losses(train(in_precision("fp32", view), view, validation))
    found = losses(train(in_precision(precision, view), view, validation))
    assert found != exact
    assert found == losses(train(in_precision(precision, view), view, validation))
    assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) < 0.05


def test_autocast_keeps_weights_gradients_and_optimizer_in_fp32(data):
    view, _ = data
    for precision, kind in (("bf16-autocast", torch.float32), ("bf16-weights", torch.bfloat16)):
        training = Training(in_precision(precision, view), view, "cpu")
        training.advance(2)
        held = list(training.model.parameters())
        kept = [state[key] for state in training.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
        assert {t.dtype for t in [*held, *(p.grad for p in held), *kept]} == {kind}


def test_kept_bf16_weights_evaluate_to_the_same_loss(data):
    view, validation = data
    (digest,) = validation
    run = in_precision("bf16-weights", view)
    outcome = train(run, view, validation)
    again = evaluate_all(load_weights(run, outcome.weights), run, validation, "cpu")
    assert again[digest].loss_sum.tolist() == outcome.final[digest].loss_sum.tolist()


def test_tf32_and_cuda_are_refused_where_there_is_no_gpu(data):
    view, validation = data
    with pytest.raises(RaystudyError, match="tf32 must be computed on a GPU"):
        train(in_precision("tf32", view), view, validation)
    if not torch.cuda.is_available():
        with pytest.raises(RaystudyError, match=r"needs a CUDA device, but torch .* finds none here"):
            train(in_precision("fp32", view), view, validation, "cuda")


def test_the_change_of_the_logits_is_their_root_mean_square_difference(data):
    view, _ = data
    training = Training(in_precision("fp32", view), view, "cpu")
    tokens = training.first_sequences()
    assert tokens.shape == (4, 16)
    before = training.model(tokens).detach()
    assert rms_logit_change(training.model, training.initial_weights, tokens) == 0.0
    training.advance(5)
    change = training.model(tokens).detach() - before
    expected = math.sqrt(float(change.double().square().mean()))
    assert rms_logit_change(training.model, training.initial_weights, tokens) == pytest.approx(expected, rel=1e-5)


def test_cumulative_lr_is_the_sum_of_what_each_step_took(data):
    view, validation = data
    run = in_precision("fp32", view, lr=1e-3, steps=10)
    constant = Constant(kind="constant", warmup_steps=4)
    run = run.model_copy(update={"settings": run.settings.model_copy(update={"schedule": constant})})
    outcome = train(run, view, validation)
    assert outcome.moved["cumulative_lr"] == pytest.approx(sum(row["lr"] for row in outcome.curve))
    assert outcome.moved["cumulative_lr"] == pytest.approx(1e-3 * (0.25 + 0.5 + 0.75 + 7))
