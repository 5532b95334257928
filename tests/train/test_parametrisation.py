"""Initialisation as published, and muP: what its rules are, and that activations then move alike at every width."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from raystudy.artifacts.shards import open_view
from raystudy.specs.presets import PRESETS
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.training import AdamW, RunSettings, WarmupStableDecay
from raystudy.train.decoder import Decoder
from raystudy.train.parametrisation import attention_scale, output_multiplier, parameter_groups
from raystudy.train.training import Training

BASE = 64
MUP = {"mup_base_width": BASE, "mup_base_heads": 4}


def a_spec(preset: str = "gpt2", width: int = BASE, **own) -> ResolvedDecoder:
    shape = {"layers": 2, "width": width, "heads": 4, "context": 16, "vocabulary": 64}
    return ResolvedDecoder(kind="decoder", **{**PRESETS[preset].fields, **shape, **own})


def deviations(spec: ResolvedDecoder) -> dict[str, float]:
    """Of every matrix of the first layer and of every embedding and head."""
    matrices = {name: p for name, p in Decoder(spec, seed=0).named_parameters() if p.ndim == 2}
    chosen = {name: p for name, p in matrices.items() if name.startswith("blocks.0.") or "blocks" not in name}
    return {name.removeprefix("blocks.0."): float(p.detach().std()) for name, p in chosen.items()}


@pytest.mark.parametrize(
    ("preset", "inward", "residual"),
    [
        ("gpt2", 0.02, 0.02 / math.sqrt(2 * 8)),
        ("pythia", math.sqrt(2 / (5 * 128)), 2 / (8 * math.sqrt(128))),
        ("opt", 0.006, 0.006 / math.sqrt(2 * 8)),
        ("llama", 0.02, 0.02),
    ],
)
def test_a_family_starts_from_the_weights_that_it_publishes(preset, inward, residual):
    found = deviations(a_spec(preset, width=128, layers=8))
    assert len(found) >= 6
    for name, deviation in found.items():
        is_residual = name in ("attention_out.weight", "mlp_out.weight")
        assert deviation == pytest.approx(residual if is_residual else inward, rel=0.05), name
    vectors = {name: p for name, p in Decoder(a_spec(preset), 0).named_parameters() if p.ndim == 1}
    assert all(bool((p == (0.0 if name.endswith("bias") else 1.0)).all()) for name, p in vectors.items())


def test_without_mup_there_are_two_groups_at_the_runs_own_learning_rate():
    for kind in ("adamw", "sgd"):
        matrices, vectors = parameter_groups(Decoder(a_spec("llama", qk_norm=True), 0), 0.1, kind)
        assert (matrices["lr_factor"], vectors["lr_factor"]) == (1.0, 1.0)
        assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("preset", ["gpt2", "pythia", "llama"])
def test_at_the_base_width_mup_is_the_standard_parametrisation_bit_for_bit(preset):
    plain, mup = Decoder(a_spec(preset), 0), Decoder(a_spec(preset, **MUP), 0)
    tokens = torch.arange(16)[None]
    assert torch.equal(plain(tokens), mup(tokens))
    for kind in ("adamw", "sgd"):
        groups = [parameter_groups(model, 0.1, kind) for model in (plain, mup)]
        shown = [[(len(g["params"]), g["weight_decay"], g["lr_factor"]) for g in each] for each in groups]
        assert shown[0] == shown[1]


def test_mups_rules_at_four_times_the_base_width_are_those_of_table_8():
    wide, base = a_spec("gpt2", 4 * BASE, tie_embeddings=False, **MUP), a_spec("gpt2", tie_embeddings=False, **MUP)
    before, after = deviations(base), deviations(wide)
    for name in before:
        ratio = 1.0 if name in ("tokens.weight", "positions.weight", "head.weight") else 0.5
        assert after[name] / before[name] == pytest.approx(ratio, rel=0.1), name
    assert output_multiplier(wide) == 1 / 4
    assert attention_scale(wide) == pytest.approx(1 / math.sqrt(16) / 4)  # heads are 64 wide in place of 16
    assert attention_scale(a_spec("gpt2", 4 * BASE, heads=16, mup_base_width=BASE)) is None  # more heads, as wide
    model = Decoder(wide, 0)
    names = {parameter: name for name, parameter in model.named_parameters()}

    def factors(kind) -> dict[str, float]:
        groups = parameter_groups(model, 0.1, kind)
        assert all(g["weight_decay"] * g["lr_factor"] in (0.0, pytest.approx(0.1)) for g in groups)
        return {names[p]: group["lr_factor"] for group in groups for p in group["params"]}

    adam, sgd = factors("adamw"), factors("sgd")
    for name in ("tokens.weight", "positions.weight", "head.weight", "norm.weight", "blocks.0.mlp_in.bias"):
        assert (adam[name], sgd[name]) == (1.0, 4.0), name
    for name in ("attention_in", "attention_out", "mlp_in", "mlp_out"):
        assert (adam[f"blocks.1.{name}.weight"], sgd[f"blocks.1.{name}.weight"]) == (1 / 4, 1.0), name


def test_training_gives_each_group_its_share_of_the_learning_rate(shard_storage):
    storage, view, _ = shard_storage
    settings = RunSettings(
        steps=10,
        batch_sequences=2,
        lr=8e-3,
        schedule=WarmupStableDecay(kind="wsd", warmup=0.2, decay=0.0),
        optimizer=AdamW(),
        clip=1.0,
    )
    model = a_spec("gpt2", 2 * BASE, **MUP)
    run = TrainRun(kind="train", shards=view, model=model, settings=settings, seed=0, numerics=NUMERICS)
    training = Training(run, open_view(storage, view), "cpu")
    training.advance(1)
    rates = {group["lr_factor"]: group["lr"] for group in training.optimizer.param_groups}
    assert rates == {0.5: pytest.approx(2e-3), 1.0: pytest.approx(4e-3)}
    assert training.curve[0]["lr"] == pytest.approx(4e-3)


def movement(spec: ResolvedDecoder, kind: str, lr: float, steps: int = 4) -> np.ndarray:
    """RMS change of the residual stream after the last layer, and of the logits, over `steps` of an optimizer."""
    model = Decoder(spec, seed=0)
    tokens = torch.randint(0, 64, (8, 17), generator=torch.Generator().manual_seed(1))
    groups = parameter_groups(model, 0.0, kind)
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    optimizer = torch.optim.SGD(groups) if kind == "sgd" else torch.optim.AdamW(groups, betas=(0.9, 0.95))
    streams: list[torch.Tensor] = []
    model.blocks[-1].register_forward_hook(lambda _module, _inputs, output: streams.append(output.detach()))
    seen = []
    for _ in range(steps + 1):
        logits = model(tokens[:, :-1])
        seen.append(logits.detach())
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return np.array([float((x[-1] - x[0]).square().mean().sqrt()) for x in (streams, seen)])


WIDTHS = (BASE, 2 * BASE, 4 * BASE, 8 * BASE)


@pytest.mark.parametrize(("kind", "lr"), [("adamw", 1e-2), ("sgd", 0.5)])
@pytest.mark.parametrize(("preset", "own"), [("gpt2", {}), ("llama", {"qk_norm": True, "kv_heads": 2})])
def test_under_mup_activations_move_as_much_at_every_width_and_otherwise_grow_with_it(preset, own, kind, lr):
    """The coordinate check of Yang et al., arXiv 2203.03466, appendix D.1."""
    mup = np.array([movement(a_spec(preset, width, **own, **MUP), kind, lr) for width in WIDTHS])
    assert (mup.max(axis=0) / mup[0] < 1.5).all(), mup
    assert (mup.min(axis=0) / mup[0] > 0.4).all(), mup
    standard = np.array([movement(a_spec(preset, width, **own), kind, lr) for width in (WIDTHS[0], WIDTHS[-1])])
    assert (standard[1] / standard[0] > 2.5).all(), standard
