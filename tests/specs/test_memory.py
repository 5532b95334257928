"""Memory by ZeRO stage against the published figures, and what would fit."""

from dataclasses import replace

import pytest

from raystudy.specs.load import load_study
from raystudy.specs.memory import GIB, LIVE_PARAMETERS, Training, estimate_memory, training_of
from raystudy.specs.memory_fit import HEADROOM, fits, gib, what_would_fit
from raystudy.specs.model import DecoderSpec, count_parameters
from raystudy.specs.presets import PRESETS
from raystudy.specs.training import AdamW, Sgd
from tests.conftest import TINY

MODEL = DecoderSpec(kind="decoder", layers=4, width=512, heads=8, context=128)
ONE = Training(MODEL, 1000, "fp32", AdamW(), batch_tokens=64 * 128)
COUNT = count_parameters(MODEL, 1000).total
SHARED = replace(ONE, workers=4, zero_stage=0)


def of(training, *parts):
    estimate = estimate_memory(training).as_dict()
    return sum(estimate[part] for part in parts)


def test_weights_masters_and_optimizer_are_those_of_the_zero_paper():
    """Figure 1 of arXiv 1910.02054: 7.5e9 parameters, 64 workers, bf16 weights; its gradients are bf16 too."""
    model = DecoderSpec(kind="decoder", layers=36, width=4096, heads=32, context=1024)
    large = Training(model, 50304, "bf16-master", AdamW(), 2**20, "cuda", workers=64, live_parameters=0)
    count = count_parameters(model, 50304).total
    for stage, per_parameter in ((0, 2 + 12), (1, 2 + 12 / 64), (2, 2 + 12 / 64), (3, 2 / 64 + 12 / 64)):
        found = of(replace(large, zero_stage=stage), "weights", "masters", "optimizer")
        assert found == pytest.approx(per_parameter * count, rel=1e-6)
    gradients = [of(replace(large, zero_stage=stage), "gradients") / count for stage in range(4)]
    assert gradients == pytest.approx([2, 2 + 4, 4 / 64, 4 / 64])  # added up in FP32 from stage 1 on


def test_plain_torch_holds_weights_twice_gradients_and_two_states_of_adamw():
    assert of(ONE, "weights") == of(ONE, "gradients") == of(ONE, "copies") == 4 * COUNT
    assert of(ONE, "optimizer") == 8 * COUNT
    assert of(replace(ONE, optimizer=Sgd(kind="sgd", momentum=0.9)), "optimizer") == 4 * COUNT
    assert of(replace(ONE, optimizer=Sgd(kind="sgd")), "optimizer") == 0
    assert of(replace(ONE, precision="bf16-autocast"), "weights") == 4 * COUNT
    assert of(replace(ONE, precision="bf16-weights"), "weights", "gradients", "optimizer") == (2 + 2 + 4) * COUNT


def test_a_gpt2_layer_keeps_sixteen_values_of_its_width_for_every_token():
    """Korthikanti et al., arXiv 2205.05198, section 4.1: 34 bytes, less 2 of dropout, at 2 bytes a value."""
    tokens = ONE.tokens_at_once
    deeper = replace(ONE, model=MODEL.model_copy(update={"layers": 5}))
    grown = of(deeper, "activations") - of(ONE, "activations")
    assert grown / tokens / 512 == pytest.approx(4 * 16, rel=0.01)
    saving = replace(ONE, activation_checkpointing=True)
    deeper = replace(deeper, activation_checkpointing=True)
    assert of(deeper, "activations") - of(saving, "activations") == 4 * tokens * 512


def test_workers_share_the_batch_and_micro_batches_hold_whole_sequences():
    assert SHARED.tokens_at_once == 16 * 128
    assert replace(SHARED, workers=3).tokens_at_once == 22 * 128  # the worker that gets most
    assert replace(SHARED, micro_batch_tokens=300).tokens_at_once == 2 * 128
    assert replace(SHARED, micro_batch_tokens=10**6).tokens_at_once == 16 * 128
    less = replace(SHARED, micro_batch_tokens=512)
    assert of(less, "activations") * 4 == of(SHARED, "activations")
    assert of(less, "logits") * 4 == of(SHARED, "logits")


def test_no_part_grows_with_the_stage_but_stage_three_gathers_weights():
    totals = [of(replace(SHARED, zero_stage=stage, live_parameters=0), "total") for stage in (1, 2, 3)]
    assert totals == sorted(totals, reverse=True)
    gathered = [of(replace(SHARED, zero_stage=3, live_parameters=n), "weights") for n in (0, LIVE_PARAMETERS)]
    assert gathered == [COUNT, COUNT + 4 * COUNT]  # a fourth of 4 bytes each, then all of them beside


def test_offloading_moves_masters_and_optimizer_from_a_gpu_to_the_host_and_nothing_on_cpus():
    on_gpu = replace(SHARED, zero_stage=3, device="cuda", precision="bf16-master")
    before, after = (estimate_memory(replace(on_gpu, offload=o)) for o in ("none", "optimizer"))
    assert before.host == 0
    assert after.masters == after.optimizer == 0
    assert after.host >= before.masters + before.optimizer
    assert after.total < before.total
    weights_too = estimate_memory(replace(on_gpu, offload="optimizer-and-weights", live_parameters=0))
    assert weights_too.weights == 0
    assert weights_too.host > after.host
    on_cpu = replace(on_gpu, device="cpu")
    assert estimate_memory(replace(on_cpu, offload="optimizer")) == estimate_memory(on_cpu)


def test_a_buffer_of_the_reduction_is_whole_on_a_gpu_and_as_large_as_the_model_on_cpus():
    sharded = replace(SHARED, zero_stage=2, bucket_elements=10**9)
    assert of(sharded, "buffers") == 4 * COUNT
    assert of(replace(sharded, device="cuda"), "buffers") == 4 * 10**9


def test_a_study_says_how_its_models_train():
    engine = "{kind: deepspeed, workers: 2, zero_stage: 3, micro_batch_tokens: 64, activation_checkpointing: true, "
    engine += "config: {zero_optimization: {reduce_bucket_size: 1000, stage3_max_live_parameters: 1.0e+5}}}"
    study = load_study(TINY, [f"models.target.engine={engine}"]).spec
    training = training_of(study, "target", 512)
    assert (training.workers, training.zero_stage, training.tokens_at_once) == (2, 3, 64)
    assert (training.bucket_elements, training.live_parameters) == (1000, 100_000)
    assert training.activation_checkpointing
    assert training_of(study, "proxy", 512).zero_stage is None


@pytest.mark.parametrize(
    ("tokens", "change"),
    [
        (8192, {"micro_batch_tokens": 4096}),
        (1024, {"activation_checkpointing": True}),
    ],
)
def test_the_smallest_change_that_fits_is_named(tokens, change):
    deep = DecoderSpec(kind="decoder", layers=96, width=512, heads=8, context=1024)
    training = Training(deep, 1000, "fp32", AdamW(), 2**17, "cuda", 1, 0, micro_batch_tokens=tokens)
    needed, less = (estimate_memory(t).total for t in (training, replace(training, **change)))
    assert less < needed
    ((name, value),) = change.items()
    words = what_would_fit(training, int(less / HEADROOM) + 1)
    assert f"; engine.{name}: {str(value).lower()} would fit ({gib(less)} by the estimate)" in words


def test_what_is_said_to_fit_fits_by_the_estimate_and_what_fits_needs_no_change():
    model = DecoderSpec(kind="decoder", **PRESETS["gpt2-774m"].fields)
    large = Training(model, 50304, "bf16-master", AdamW(), 2**19, "cuda", 8, 1, micro_batch_tokens=8192)
    assert "so by this estimate it fits" in what_would_fit(large, 80 * GIB)
    assert "; engine.micro_batch_tokens: 2048 with engine.zero_stage: 2 would fit" in what_would_fit(large, 12 * GIB)
    told = replace(large, micro_batch_tokens=2048, zero_stage=2)
    assert fits(told, 12 * GIB)
    assert not fits(replace(told, zero_stage=1), 12 * GIB)
    assert not fits(replace(told, micro_batch_tokens=4096), 12 * GIB)
    words = what_would_fit(large, 2 * GIB)
    assert "engine.zero_stage: 3, engine.workers: 512 it still needs" in words
    assert "of it to evaluate. Use a smaller model" in words


def test_under_auto_on_gpus_a_smaller_micro_batch_is_not_advised_since_it_is_found_anyway():
    model = DecoderSpec(kind="decoder", **PRESETS["gpt2-774m"].fields)
    large = Training(model, 50304, "bf16-master", AdamW(), 2**19, "cuda", 8, 0)
    words = what_would_fit(large, 14 * GIB)
    assert "at one sequence at a time" in words
    assert "; engine.zero_stage: 2 would fit" in words
    assert "engine.micro_batch_tokens" in what_would_fit(replace(large, device="cpu"), 20 * GIB)  # all at once there


def test_sizes_are_told_in_gib_and_small_ones_in_mib():
    assert (gib(3 * GIB), gib(GIB // 4), gib(5 * 2**20), gib(0)) == ("3 GiB", "0.25 GiB", "5 MiB", "0 MiB")
