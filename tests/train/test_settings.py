"""Optimizers and schedules: values by hand, decay on matrices only, what does not fit is told."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from raystudy.specs.schedules import Constant, Cosine, Linear, WarmupStableDecay
from raystudy.specs.training import AdamW, RunSettings, Sgd, TrainingSettings
from raystudy.train.decoder import Decoder
from raystudy.train.optimizer import build_optimizer
from raystudy.train.schedule import lr_factor
from raystudy.train.training import Training
from tests.train.test_training import a_run


def factors(schedule, steps: int = 10) -> list[float]:
    return [lr_factor(schedule, step, steps) for step in range(steps)]


def test_a_decay_of_one_minus_square_root_falls_as_published():
    found = factors(WarmupStableDecay(kind="wsd", warmup=0, decay=0.4, decay_shape="1-sqrt"))
    np.testing.assert_allclose(found, [1] * 7 + [1 - math.sqrt(x) for x in (1 / 4, 2 / 4, 3 / 4)])


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
def test_lengths_in_steps_are_those_of_shares(shape):
    shares = WarmupStableDecay(kind="wsd", warmup=0.2, decay=0.3, decay_shape=shape)
    steps = WarmupStableDecay(kind="wsd", warmup_steps=2, decay_steps=3, decay_shape=shape)
    assert factors(shares) == factors(steps)
    assert factors(Cosine(kind="cosine", warmup=0.2)) == factors(Cosine(kind="cosine", warmup_steps=2))


def test_constant_stays_and_linear_falls_to_its_final_share():
    assert factors(Constant(kind="constant", warmup_steps=2), 5) == [0.5, 1, 1, 1, 1]
    np.testing.assert_allclose(factors(Linear(kind="linear", warmup=0), 4), [1, 3 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(
        factors(Linear(kind="linear", warmup_steps=2, final=0.5), 6), [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8]
    )


def test_no_schedule_has_a_step_without_learning():
    schedules = [WarmupStableDecay(kind="wsd", warmup=w, decay=1 - w) for w in (0.0, 0.3, 1.0)]
    schedules += [Linear(kind="linear"), Cosine(kind="cosine"), Constant(kind="constant", warmup=1.0)]
    for schedule in schedules:
        for steps in (1, 2, 3, 7, 50):
            assert all(0 < factor <= 1 for factor in factors(schedule, steps)), (schedule, steps)


def test_a_schedule_longer_than_its_run_is_refused():
    def settings(schedule):
        return RunSettings(steps=50, batch_sequences=1, lr=1e-3, schedule=schedule, optimizer=AdamW(), clip=None)

    settings(WarmupStableDecay(kind="wsd", warmup_steps=30, decay_steps=20))
    for schedule in (
        WarmupStableDecay(kind="wsd", warmup_steps=30, decay_steps=21),
        WarmupStableDecay(kind="wsd", warmup_steps=41, decay=0.2),
        Constant(kind="constant", warmup_steps=51),
    ):
        with pytest.raises(ValidationError, match="the schedule must fit into the run"):
            settings(schedule)


def test_a_length_is_given_once():
    with pytest.raises(ValidationError, match="only one of warmup and warmup_steps"):
        Linear(kind="linear", warmup=0.1, warmup_steps=3)
    with pytest.raises(ValidationError, match="only one of decay and decay_steps"):
        WarmupStableDecay(kind="wsd", decay=0.1, decay_steps=3)


def test_settings_survive_being_written_and_read():
    schedule = WarmupStableDecay(kind="wsd", warmup_steps=3, decay_steps=2, decay_shape="1-sqrt")
    settings = TrainingSettings(steps=9, batch_tokens=4, schedule=schedule, optimizer=Sgd(kind="sgd", momentum=0.9))
    assert TrainingSettings.model_validate_json(settings.model_dump_json()) == settings


def test_an_optimizer_without_a_kind_is_adamw():
    read = TrainingSettings.model_validate_json('{"steps": 1, "batch_tokens": 4, "optimizer": {"beta2": 0.99}}')
    assert read.optimizer == AdamW(beta2=0.99)


def test_new_settings_move_the_identity_and_their_defaults_do_not():
    run = a_run("x")
    settings = run.settings
    constant = settings.model_copy(update={"schedule": Constant(kind="constant")})
    sgd = settings.model_copy(update={"optimizer": Sgd(kind="sgd")})
    momentum = settings.model_copy(update={"optimizer": Sgd(kind="sgd", momentum=0.9)})
    root = WarmupStableDecay(kind="wsd", warmup=0.1, decay=0.2, decay_shape="1-sqrt")
    others = [run.model_copy(update={"settings": s}) for s in (constant, sgd, momentum)]
    others += [run.model_copy(update={"settings": settings.model_copy(update={"schedule": root})})]
    others += [run.model_copy(update={"precision": p}) for p in ("tf32", "bf16-autocast", "bf16-weights")]
    assert len({run.run_id, *(other.run_id for other in others)}) == 1 + len(others)
    assert run.model_copy(update={"precision": "fp32"}).run_id == run.run_id


@pytest.mark.parametrize(("momentum", "second"), [(0.0, 1.0), (0.5, 1.5)])
def test_sgd_steps_as_worked_by_hand(momentum, second):
    layer = nn.Linear(2, 1)
    layer.spec = a_run("x").model  # of the standard parametrisation
    optimizer = build_optimizer(layer, Sgd(kind="sgd", momentum=momentum, weight_decay=0.1), lr=0.5)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(2.0)
    weight = bias = 2.0
    velocity = 0.0
    for factor in (1.0, second):  # gradient 1 each time: the second step is 1 + momentum x the first
        layer.weight.grad, layer.bias.grad = torch.ones(1, 2), torch.ones(1)
        optimizer.step()
        velocity = momentum * velocity + 1 + 0.1 * weight
        weight, bias = weight - 0.5 * velocity, bias - 0.5 * factor
    np.testing.assert_allclose(layer.weight.detach(), [[weight, weight]], rtol=1e-6)
    np.testing.assert_allclose(layer.bias.detach(), [bias], rtol=1e-6)


@pytest.mark.parametrize("spec", [AdamW(weight_decay=0.3), Sgd(kind="sgd", momentum=0.9, weight_decay=0.3)])
def test_every_optimizer_decays_matrices_only(spec):
    model = Decoder(a_run("x").model, seed=0)
    for group in build_optimizer(model, spec, 1e-3).param_groups:
        assert group["weight_decay"] == (0.3 if group["params"][0].ndim >= 2 else 0.0)


def test_clipping_bounds_the_gradient_of_an_update_and_null_does_not(data):
    view, _ = data
    sgd = {"optimizer": Sgd(kind="sgd"), "schedule": Constant(kind="constant", warmup=0.0), "lr": 1.0}
    moved = {}
    for clip in (0.01, None):
        run = a_run(view.digest, steps=1)
        run = run.model_copy(update={"settings": run.settings.model_copy(update={**sgd, "clip": clip})})
        training = Training(run, view, "cpu")
        training.advance(1)
        steps = [weight.detach() - training.initial_weights[name] for name, weight in training.model.named_parameters()]
        moved[clip] = math.sqrt(sum(float((step**2).sum()) for step in steps))
        assert training.curve[0]["gradient_norm"] > 0.1, "the curve tells the norm before clipping"
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)
    assert moved[None] == pytest.approx(training.curve[0]["gradient_norm"], rel=1e-3)
