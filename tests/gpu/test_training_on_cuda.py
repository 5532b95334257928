"""Training on a CUDA device: the losses of the CPU within a band, precisions, memory, checkpoints.

A band is a bound on the relative difference of any logged loss and of the final one over 40 steps from 4.2 to about
2 nats. Figures go with the tests' outcomes into the result file of `make gpu`.
"""

import numpy as np
import pytest
import torch

from raystudy.artifacts.storage import Storage
from raystudy.train.process import take_gpu_share
from raystudy.train.run import Means, evaluate_all, load_weights, train
from raystudy.train.training import Training
from tests.conftest import TINY
from tests.train.test_checkpoints import resume, stop_after
from tests.train.test_training import a_run, losses

pytestmark = pytest.mark.gpu

STEPS = 40
BANDS = {"fp32": 1e-3, "tf32": 2e-2, "bf16-autocast": 5e-2}


def in_precision(precision: str, view, steps: int = STEPS):
    run = a_run(view.digest, steps=steps, width=64)
    return run.model_copy(update={"precision": precision})


def difference(one, other) -> float:
    """The largest relative difference of any loss."""
    a, b = np.array(losses(one)), np.array(losses(other))
    return float(np.max(np.abs(a - b) / np.abs(b)))


@pytest.mark.parametrize("precision", BANDS)
def test_losses_on_cuda_are_those_of_fp32_on_the_cpu_within_the_band(data, precision, record_property):
    view, validation = data
    cpu = train(in_precision("fp32", view), view, validation)
    cuda = train(in_precision(precision, view), view, validation, "cuda")
    found = difference(cuda, cpu)
    record_property("largest relative difference", found)
    record_property("band", BANDS[precision])
    assert cuda.status == "finished"
    assert found < BANDS[precision]


def test_tf32_is_chosen_and_never_left_on(data):
    view, validation = data
    exact, rounded, again = (
        losses(train(in_precision(precision, view), view, validation, "cuda")) for precision in ("fp32", "tf32", "fp32")
    )
    assert torch.get_float32_matmul_precision() == "highest"
    np.testing.assert_allclose(again, exact, rtol=BANDS["fp32"])
    if torch.cuda.get_device_capability() >= (8, 0):
        assert rounded != exact


def test_autocast_keeps_weights_and_optimizer_in_fp32_on_cuda(data):
    view, _ = data
    training = Training(in_precision("bf16-autocast", view), view, "cuda")
    training.advance(2)
    kept = [state[key] for state in training.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert {t.dtype for t in [*training.model.parameters(), *kept]} == {torch.float32}


def test_at_a_tiny_learning_rate_bf16_weights_stay_on_cuda(data, record_property):
    view, validation = data
    for precision in ("fp32", "bf16-autocast", "bf16-weights"):
        run = in_precision(precision, view)
        run = run.model_copy(update={"settings": run.settings.model_copy(update={"lr": 1e-6})})
        share = train(run, view, validation, "cuda").moved["share_of_weights_changed"]
        record_property(f"share of weights changed, {precision}", share)
        assert share < 0.1 if precision == "bf16-weights" else share > 0.999


def test_peak_memory_and_time_are_the_devices_own(data, record_property):
    view, validation = data
    outcome = train(in_precision("fp32", view), view, validation, "cuda")
    weights = sum(array.nbytes for array in outcome.weights.values())
    peak, seconds = outcome.made["peak_memory"], outcome.seconds
    record_property("peak memory in bytes", peak["bytes"])
    record_property("tokens per second", outcome.made["tokens_per_second"])
    assert peak["of"] == "device"
    assert 4 * weights < peak["bytes"] < torch.cuda.get_device_properties(0).total_memory  # with gradients and AdamW's
    parts = [seconds[name] for name in ("data", "forward-backward", "optimizer")]
    assert min(parts) > 0
    assert sum(parts) <= 1.01 * seconds["training"]
    assert outcome.made["device_name"] == torch.cuda.get_device_name()


def test_auto_halves_the_batch_where_the_devices_memory_ends(data, record_property):
    view, validation = data
    run = in_precision("fp32", view, steps=4)
    run = run.model_copy(update={"settings": run.settings.model_copy(update={"batch_sequences": 2048})})
    whole = train(run, view, validation, "cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * whole.made["peak_memory"]["bytes"] / total)
        halved = train(run, view, validation, "cuda", Means("auto"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    record_property("micro-batch", halved.made["micro_batch_sequences"])
    assert halved.made["micro_batch_sequences"] < 2048
    assert difference(halved, whole) < BANDS["fp32"]


def test_a_run_stopped_in_the_middle_goes_on_on_cuda(data, tmp_path, record_property):
    view, validation = data
    run = in_precision("fp32", view)
    stop_after(view, validation, run, tmp_path, 20, "cuda")
    outcome, checkpoints = resume(view, validation, run, tmp_path, "cuda")
    found = difference(outcome, train(run, view, validation, "cuda"))
    record_property("largest relative difference", found)
    assert checkpoints.resumed_from == 20
    assert found < BANDS["fp32"]


def test_kept_weights_of_a_gpu_evaluate_to_the_same_loss_on_the_cpu(data):
    view, validation = data
    run = in_precision("fp32", view)
    outcome = train(run, view, validation, "cuda")
    (digest,) = validation
    found = evaluate_all(load_weights(run, outcome.weights), run, validation, "cpu")[digest]
    assert found.nats_per_token == pytest.approx(outcome.final[digest].nats_per_token, rel=1e-5)


def test_a_study_runs_on_the_gpus_of_this_machine(tmp_path, cli):
    options = ["--set", "resources.gpus_per_run=0.5", "--set", "training.steps=4", "--local", "--max-runs", "4"]
    done = cli("run", TINY, "--storage", tmp_path, *options)
    assert done.returncode == 8, done.stderr  # it stops at its budget
    ledger = Storage(tmp_path).runs
    made = [ledger.read(run_id).result["provenance"] for run_id in ledger.started()]
    assert {about["device"] for about in made} == {"cuda"}
    assert {about["peak_memory"]["of"] for about in made} == {"device"}


def test_a_process_on_a_share_of_the_gpu_is_out_of_memory_beyond_that_share_and_not_before():
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        take_gpu_share(0.1)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(total // 8, dtype=torch.uint8, device="cuda")
        assert torch.empty(total // 16, dtype=torch.uint8, device="cuda").numel() == total // 16
    finally:
        take_gpu_share(1.0)
        torch.cuda.empty_cache()
