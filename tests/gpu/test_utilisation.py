"""Published models in bf16 use at least 40% of an H100's or H200's arithmetic; DeepSpeed there is `train/` in FP32.

Marked `gpu` where a CUDA device is needed. What the marked tests rest on runs on the CPU here: the arithmetic, which
cards have a known peak, and the same processes at a size that a CPU trains.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from raystudy.specs.engines import DeepSpeedEngine
from tests.gpu.one_worker import curves, random_view, speed
from tests.gpu.utilisation import BATCH_TOKENS, WANTED, mfu, peak_flops, published_run
from tests.reference.cases import a_case

PUBLISHED = ("pythia-1b", "gpt2-774m")
WARM_UP, STEPS = 4, 32
EQUAL_STEPS, EQUAL = 20, 1e-4  # relative difference of any loss
STAGES = (0, 1, 2, 3)


def needs_deepspeed() -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed here")


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_published_model_in_bf16_uses_40_per_cent_of_the_cards_arithmetic(preset, engine, tmp_path, record_property):
    name = torch.cuda.get_device_name()
    peak = peak_flops(name)
    if peak is None:
        pytest.skip(f"the peak of an H100 or H200 SXM is known here, but not that of {name}")
    if engine == "deepspeed":
        needs_deepspeed()
    storage = tmp_path / "storage"
    vocabulary = published_run("", preset, engine).model.vocabulary
    run = published_run(random_view(storage, vocabulary, STEPS * BATCH_TOKENS), preset, engine)
    found = speed(tmp_path / "asked", storage, run, "cuda", warm_up=WARM_UP, steps=STEPS, limit=1100)
    share = mfu(run, found["tokens per second"], peak)
    for figure, value in {"MFU": share, "peak FLOP/s": peak, **found}.items():
        record_property(figure, value)
    assert share >= WANTED


def largest_difference(found: list[list[float]]) -> list[float]:
    """Of each engine the largest relative difference of a loss from one process."""
    one, *others = (np.array(losses) for losses in found)
    assert len(one) == EQUAL_STEPS + 1
    assert one[-1] < one[0] - 0.1  # it has learned: equal losses say something
    return [float(np.max(np.abs(other / one - 1))) for other in others]


def equal_by_stage(shard_storage, folder, device) -> list[float]:
    storage, view, validation = shard_storage
    run = a_case(view, EQUAL_STEPS, width=32)
    engines = [
        DeepSpeedEngine(kind="deepspeed", gpus_per_worker=int(device == "cuda"), zero_stage=stage) for stage in STAGES
    ]
    return largest_difference(curves(folder, storage, validation, run, engines, device))


@pytest.mark.gpu
@pytest.mark.timeout(360)
def test_one_worker_over_nccl_is_train_in_fp32_at_every_zero_stage(shard_storage, tmp_path, record_property):
    needs_deepspeed()
    found = equal_by_stage(shard_storage, tmp_path, "cuda")
    for stage, difference in zip(STAGES, found, strict=True):
        record_property(f"largest relative difference, ZeRO {stage}", difference)
    assert max(found) < EQUAL


@pytest.mark.timeout(360)
def test_the_check_of_one_worker_against_train_holds_over_gloo_too(shard_storage, tmp_path):
    assert max(equal_by_stage(shard_storage, tmp_path, "cpu")) < EQUAL


@pytest.mark.timeout(360)
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_the_measurement_of_speed_works_on_a_cpu(engine, tmp_path):
    view = random_view(tmp_path / "storage", 64, 20_000)
    precision = "bf16-autocast" if engine == "torch" else "bf16-master"
    run = a_case(view, 100, precision=precision).model_copy(update={"engine": engine})
    found = speed(tmp_path / "asked", tmp_path / "storage", run, "cpu", warm_up=2, steps=3, limit=300)
    assert found["micro-batch"] == run.settings.batch_sequences
    assert found["tokens per second"] > 0


def test_mfu_is_flops_of_the_trained_tokens_over_the_peak():
    run = published_run("", "gpt2-774m", "torch")
    # Worked by hand: 36 layers of 12 d^2 + 13 d, the last norm, the tied head; attention 12 L d T.
    passed = 36 * (12 * 1280**2 + 13 * 1280) + 2 * 1280 + 50257 * 1280
    per_token = 6 * passed + 12 * 36 * 1280 * 1024
    assert mfu(run, 1e5, 989e12) == pytest.approx(per_token * 1e5 / 989e12)
    assert mfu(run, 0.4 * 989e12 / per_token, 989e12) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA H200"])
def test_sxm_cards_have_the_peak_of_their_data_sheets(name):
    assert peak_flops(name) == 989e12


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "Tesla T4", ""],
)
def test_no_peak_is_guessed_for_another_card_or_a_part_of_one(name):
    assert peak_flops(name) is None


@pytest.mark.parametrize(("preset", "sequences"), [("pythia-1b", 64), ("gpt2-774m", 128)])
def test_the_published_runs_are_whole_models_in_bf16(preset, sequences):
    for engine, precision in (("torch", "bf16-autocast"), ("deepspeed", "bf16-master")):
        run = published_run("", preset, engine)
        assert (run.engine, run.precision) == (engine, precision)
        assert run.settings.batch_sequences == sequences
        assert run.model.vocabulary > 50_000
