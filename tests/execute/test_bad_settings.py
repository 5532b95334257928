"""Settings that cannot be trained: told by the check where it can see them, else by the run; never a traceback."""

import io
from pathlib import Path

import pytest
import torch

import raystudy.train.training
from raystudy.artifacts.storage import Storage
from raystudy.errors import DataError, SpecError
from raystudy.execute.gpus import check_gpus, gpu_places
from raystudy.execute.local import InlineExecutor, LocalExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.shapes import Shape
from raystudy.execute.tasks import make_tasks
from raystudy.execute.work import Task, do_task
from raystudy.specs.load import load_study
from raystudy.specs.study import Resources
from raystudy.study.wanted import WantedRun
from tests.conftest import TINY, make_shards
from tests.mutation.own_text import own_text
from tests.train.test_training import a_run

LONG = "{kind: wsd, warmup_steps: 20, decay_steps: 11}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            [f"training.schedule={LONG}"],
            "training.schedule: the schedule must fit into the run: warm-up steps + decay steps <= steps, "
            "but got 20 + 11 and 30 steps for model 'proxy'. Train longer, or shorten what is in steps",
        ),
        (
            [f"models.proxy.training.schedule={LONG}"],
            "models.proxy.training.schedule: the schedule must fit into the run",
        ),
        (
            ["training.schedule={kind: constant, warmup_steps: 9}", "models.proxy.training.tokens=2000"],
            "but got 9 warm-up steps of 8 for model 'proxy'",
        ),
        (["training.schedule={kind: step}"], "'kind' must be one of wsd, cosine, constant, linear, but got 'step'"),
        (["training.schedule={kind: wsd, decay_shape: sqrt}"], "must be 'linear' or '1-sqrt', but got 'sqrt'"),
        (["training.optimizer={kind: sdg}"], "'kind' must be one of adamw, sgd, but got 'sdg'. Did you mean 'sgd'?"),
        (["training.optimizer={betaa1: 0.2}"], "'betaa1' is not a known key. Did you mean 'beta1'?"),
        (["training.optimizer={kind: sgd, momentum: 1}"], "momentum: must be less than 1, but got 1"),
        (
            ["training.precision=fp16"],
            "must be 'fp32', 'tf32', 'bf16-autocast', 'bf16-weights' or 'bf16-master', but got 'fp16'",
        ),
        (
            ["training.precision=tf32"],
            "training.precision: tf32 must be computed on a GPU, but model 'proxy' asks for none",
        ),
        (["training.batch_tokens=100"], "batch_tokens must be a multiple of context, but got 100 and 32"),
        (["resources.micro_batch_tokens=31"], "must hold one sequence of 32 tokens (the context of model 'proxy')"),
        (["resources.micro_batch_tokens=some"], "but got 'some'"),
        (["resources.checkpoint_minutes=0"], "checkpoint_minutes: must be greater than 0, but got 0"),
    ],
)
def test_the_check_tells_what_does_not_fit(overrides, expected):
    with pytest.raises(SpecError) as caught:
        load_study(TINY, overrides)
    assert expected in str(caught.value)


def test_the_right_forms_of_the_same_settings_are_read():
    right = ["training.schedule={kind: wsd, warmup_steps: 20, decay_steps: 10, decay_shape: 1-sqrt}"]
    right += ["training.optimizer={kind: sgd, momentum: 0.9}", "training.precision=bf16-autocast"]
    right += ["resources.micro_batch_tokens=32", "resources.checkpoint_minutes=null"]
    study = load_study(TINY, right).spec
    assert study.resources.micro_batch_tokens == 32
    assert load_study(TINY, ["training.precision=tf32", "resources.gpus_per_run=0.5"]).spec.resources.device == "cuda"


def reported(storage, run, validation, **others):
    (report,) = do_task(Task((run.model_dump_json(),), str(storage), {validation: "v"}, **others))
    return report


def test_a_context_longer_than_the_shard_is_told_by_the_run(tmp_path):
    view, validation = make_shards(tmp_path)
    report = reported(tmp_path, a_run(view, context=4096), validation)
    assert report.status == "failed"
    assert "must hold at least one window of 4097 tokens, but 'a' holds 2430 tokens" in report.cause
    assert "choose a shorter context" in report.cause


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused_by_the_launch_and_by_the_run(tmp_path, cli):
    done = cli("run", TINY, "--storage", tmp_path / "s", "--local", "--set", "resources.gpus_per_run=1")
    assert done.returncode == 2
    assert "this machine must have the 1 GPUs that resources.gpus_per_run asks for, but has 0" in done.stderr
    assert "Traceback" not in done.stderr
    view, validation = make_shards(tmp_path)
    report = reported(tmp_path, a_run(view), validation, device="cuda")
    assert report.status == "failed"
    assert "a run on 'cuda' needs a CUDA device" in report.cause


def test_out_of_memory_is_recorded_with_its_cause_and_a_smaller_micro_batch_is_used_where_it_helps(
    tmp_path, monkeypatch
):
    view, validation = make_shards(tmp_path)
    forward = raystudy.train.training.Decoder.forward

    def scarce(self, tokens):
        if torch.is_grad_enabled() and len(tokens) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(self, tokens)

    monkeypatch.setattr(raystudy.train.training.Decoder, "forward", scarce)
    asked = reported(tmp_path, a_run(view, steps=3, seed=1), validation, micro_batch_tokens=64)
    assert asked.status == "out-of-memory"
    record = Storage(tmp_path).runs.read(a_run(view, steps=3, seed=1).run_id)
    assert "Tried to allocate 20.00 MiB" in record.result["cause"]
    assert record.metric("loss", validation) is None
    left_to_us = reported(tmp_path, a_run(view, steps=3), validation)
    assert left_to_us.status == "finished"
    made = Storage(tmp_path).runs.read(a_run(view, steps=3).run_id).result["provenance"]
    assert made["micro_batch_sequences"] == 2


def test_a_task_takes_its_resources_from_the_study():
    wanted = WantedRun(a_run("x"), "recipe", "model")
    (task,) = make_tasks([wanted], "root", {}, Resources(micro_batch_tokens=64, checkpoint_minutes=None))
    assert (task.device, task.micro_batch_tokens, task.checkpoint_minutes) == ("cpu", 64, None)
    (task,) = make_tasks([wanted], "root", {}, Resources(gpus_per_run=1))
    assert (task.device, task.micro_batch_tokens, task.checkpoint_minutes) == ("cuda", "auto", 10)


def test_gpus_are_shared_out_to_workers():
    assert gpu_places(["0", "1"], 1) == ["0", "1"]
    assert gpu_places(["4", "7"], 0.5) == ["4", "4", "7", "7"]
    assert gpu_places(["0", "1", "2"], 2) == ["0,1"]
    assert LocalExecutor(8, ["0", "1"])._places_for(Shape(0, 0.5, 1.0)) == ["1", "1", "0", "0"]
    assert LocalExecutor(3, ["0", "1"])._places_for(Shape(0, 0.5, 1.0)) == ["1", "0", "0"]
    assert LocalExecutor(3, ["0", "1"])._places_for(Shape(0, 0, 1.0)) == [None] * 3
    with pytest.raises(SpecError, match=r"must have the 2 GPUs .* but has 1"):
        check_gpus([Resources(), Resources(gpus_per_run=2)], 1, "this machine")


def test_each_worker_sees_its_own_gpu(tmp_path):
    view, validation = make_shards(tmp_path)
    runs = [a_run(view, steps=1, seed=seed).model_dump_json() for seed in (0, 1)]
    tasks = [Task((run,), str(tmp_path), {validation: "v"}, gpus=1) for run in runs]
    with LocalExecutor(2, ["5", "6"]) as executor:
        assert [report.status for report in executor.run(tasks)] == ["finished", "finished"]
        seen = {
            entry.decode().partition("=")[2]
            for worker in executor._idle
            for entry in Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
            if entry.startswith(b"CUDA_VISIBLE_DEVICES=")
        }
    assert seen == {"5", "6"}


def test_a_record_says_how_the_run_was_made(tmp_path):
    view, validation = make_shards(tmp_path)
    run = a_run(view, steps=30)
    reported(tmp_path, run, validation)
    ledger = Storage(tmp_path).runs
    result = ledger.read(run.run_id).result
    seconds, made = result["seconds"], result["provenance"]
    parts = seconds["data"] + seconds["forward-backward"] + seconds["optimizer"]
    assert 0.5 * seconds["training"] < parts <= seconds["training"] < seconds["total"]
    assert 0 < seconds["evaluation"] < seconds["total"]
    assert made["tokens_per_second"] == pytest.approx(run.num_tokens / seconds["training"])
    assert made["peak_memory"]["bytes"] > 10_000_000
    assert made["device"] == "cpu"
    assert made["device_name"]
    assert {"raystudy", "packages", "host", "started_at", "micro_batch_sequences"} <= set(made)
    assert set(made["packages"]) == {"python", "torch", "numpy"}
    moved = {"cumulative_lr", "share_of_weights_changed", "relative_loss_drop", "rms_logit_change"}
    assert set(result["moved"]) == moved
    assert {"step", "lr", "loss", "gradient_norm"} == set(ledger.read_curve(run.run_id)[0])
    assert result["spec"] == run.model_dump(mode="json")


def test_a_context_longer_than_a_source_is_told_once_and_before_anything_runs(tmp_path):
    loaded = load_study(own_text(tmp_path), ["models.proxy.context=100000", "training.batch_tokens=100000"])
    with pytest.raises(DataError, match="nothing has been run") as told:
        run_study(loaded, Storage(tmp_path / "storage"), InlineExecutor, Progress(io.StringIO()))
    assert str(told.value).count("a window of model 'proxy' 100001") == 3  # one source in each recipe
    assert not list((tmp_path / "storage").glob("runs/*/spec.json"))
