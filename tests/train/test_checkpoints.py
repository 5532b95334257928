"""Checkpoints: a run killed in the middle ends as if nothing had happened; what cannot be used is told or refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from raystudy.artifacts.checkpoints import checkpoint_path, read_checkpoint
from raystudy.artifacts.leftovers import remove_leftovers
from raystudy.artifacts.storage import Storage
from raystudy.errors import RaystudyError, StorageError
from raystudy.execute.work import Task, do_task
from raystudy.specs.training import AdamW, Sgd
from raystudy.train.checkpoint import Checkpoints
from raystudy.train.run import Means, train
from raystudy.train.training import Training
from tests.conftest import ROOT, make_shards
from tests.train.test_training import a_run, losses

STEPS = 300
EVERY_STEP = 1e-9  # minutes


def a_long_run(view: str, optimizer=None, precision: str = "fp32", steps: int = STEPS):
    run = a_run(view, steps=steps, width=32)
    settings = run.settings.model_copy(update={"optimizer": optimizer or AdamW()})
    return run.model_copy(update={"settings": settings, "precision": precision})


def a_task(storage: Path, run, validation: str, minutes: float | None) -> Task:
    return Task((run.model_dump_json(),), str(storage), {validation: "v"}, checkpoint_minutes=minutes)


_WORKER = """
import json, sys
from raystudy.execute.work import Task, do_task
print(do_task(Task(**json.loads(sys.argv[1])))[0].status)
"""


def start(task: Task) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", _WORKER, json.dumps(vars(task))], env=environment)


def step_of(storage: Storage, run) -> int:
    checkpoint = read_checkpoint(storage.runs.folder(run.run_id), run.run_id)
    return 0 if checkpoint is None else checkpoint.step


def test_a_run_killed_in_the_middle_goes_on_and_ends_with_the_same_numbers_bit_for_bit(tmp_path):
    kept, calm = tmp_path / "kept", tmp_path / "calm"
    view, validation = make_shards(kept)
    assert make_shards(calm) == (view, validation)
    run, storage = a_long_run(view), Storage(kept)
    worker = start(a_task(kept, run, validation, EVERY_STEP))
    ends = time.monotonic() + 60
    while step_of(storage, run) < 20 and worker.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    kept_at = step_of(storage, run)
    assert 20 <= kept_at < STEPS
    (report,) = do_task(a_task(kept, run, validation, 10))
    (undisturbed,) = do_task(a_task(calm, run, validation, None))
    assert report.status == undisturbed.status == "finished"
    one, other = (Storage(root).runs for root in (kept, calm))
    assert one.read_curve(run.run_id) == other.read_curve(run.run_id)
    assert one.read_evaluations(run.run_id) == other.read_evaluations(run.run_id)
    one, other = (ledger.read(run.run_id, [validation]) for ledger in (one, other))
    assert one.metrics == other.metrics
    assert one.result["moved"] == other.result["moved"]
    assert one.result["provenance"]["resumed_from_step"] == kept_at
    assert other.result["provenance"]["resumed_from_step"] == 0
    assert 0.0 == other.earlier_seconds < one.earlier_seconds < one.seconds
    assert one.seconds - one.earlier_seconds <= report.seconds
    assert not checkpoint_path(storage.runs.folder(run.run_id)).exists()


class _StoppedError(Exception):
    pass


def stop_after(view, validation, run, folder: Path, step: int, device: str = "cpu") -> None:
    """Train until `step` steps have been taken and kept, then fail as a dying worker would."""

    class Stopping(Checkpoints):
        def keep_if_due(self, now, parts):
            taken = super().keep_if_due(now, parts)
            if now == step:
                raise _StoppedError
            return taken

    with pytest.raises(_StoppedError):
        train(run, view, validation, device, Means(checkpoints=Stopping(folder, run.run_id, device, 0.0)))


def resume(view, validation, run, folder: Path, device: str = "cpu"):
    checkpoints = Checkpoints(folder, run.run_id, device, 1e9)
    return train(run, view, validation, device, Means(checkpoints=checkpoints)), checkpoints


@pytest.mark.parametrize(
    ("optimizer", "precision", "step"),
    [
        (AdamW(), "fp32", 1),
        (AdamW(), "fp32", 20),
        (Sgd(kind="sgd"), "fp32", 13),
        (Sgd(kind="sgd", momentum=0.9), "fp32", 13),
        (AdamW(), "bf16-autocast", 13),
        (AdamW(), "bf16-weights", 13),
    ],
)
def test_every_kind_of_run_goes_on_bit_for_bit_from_its_first_a_middle_and_its_last_step(
    data, tmp_path, optimizer, precision, step
):
    view, validation = data
    run = a_long_run(view.digest, optimizer, precision, steps=20)
    stop_after(view, validation, run, tmp_path, step)
    torch.rand(3), np.random.rand(3)
    outcome, checkpoints = resume(view, validation, run, tmp_path)
    whole = train(run, view, validation)
    assert checkpoints.resumed_from == outcome.made["resumed_from_step"] == step
    assert losses(outcome) == losses(whole)
    assert outcome.curve == whole.curve
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(outcome.weights[name], weight)


def test_random_generators_go_on_where_they_were(data):
    view, _ = data
    training = Training(a_long_run(view.digest, steps=4), view, "cpu")
    training.advance(2)
    arrays, about = training.state()
    drawn = torch.rand(4), np.random.rand(4)
    torch.manual_seed(5)
    other = Training(a_long_run(view.digest, steps=4), view, "cpu")
    other.load_state(arrays, json.loads(json.dumps(about)))
    assert torch.equal(torch.rand(4), drawn[0])
    np.testing.assert_array_equal(np.random.rand(4), drawn[1])


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "a bit":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        path.write_bytes(b"\x80\x04K\x01.")  # a pickle


@pytest.mark.parametrize("how", ["cut", "a bit", "a pickle"])
def test_a_torn_checkpoint_is_told_and_kept_aside_and_training_begins_anew(data, tmp_path, how):
    view, validation = data
    run = a_long_run(view.digest, steps=10)
    stop_after(view, validation, run, tmp_path, 5)
    spoil(checkpoint_path(tmp_path), how)
    outcome, checkpoints = resume(view, validation, run, tmp_path)
    assert checkpoints.resumed_from == 0
    assert "must be a checkpoint, but" in checkpoints.note
    assert "kept as checkpoint.safetensors.bad-0, and begun anew" in checkpoints.note
    assert losses(outcome) == losses(train(run, view, validation))


def test_what_was_torn_stands_in_the_record_and_the_report(tmp_path):
    view, validation = make_shards(tmp_path)
    run = a_long_run(view, steps=10)
    folder = Storage(tmp_path).runs.folder(run.run_id)
    folder.mkdir(parents=True)
    checkpoint_path(folder).write_bytes(b"nothing")
    (report,) = do_task(a_task(tmp_path, run, validation, 10))
    assert report.status == "finished"
    assert "must be a checkpoint, but is torn" in report.note
    assert Storage(tmp_path).runs.read(run.run_id).result["provenance"]["notes"] == [report.note]


def test_a_checkpoint_of_another_spec_is_refused_and_stays(tmp_path):
    view, validation = make_shards(tmp_path)
    run, other = a_long_run(view, steps=10), a_long_run(view, Sgd(kind="sgd"), steps=10)
    folders = [Storage(tmp_path).runs.folder(each.run_id) for each in (run, other)]
    for folder in folders:
        folder.mkdir(parents=True)
    Checkpoints(folders[0], run.run_id, "cpu", 0.0).keep_if_due(1, {})
    checkpoint_path(folders[0]).rename(checkpoint_path(folders[1]))
    with pytest.raises(
        RaystudyError, match=f"must be a checkpoint of run {other.run_id}, but is one of run {run.run_id}"
    ):
        read_checkpoint(folders[1], other.run_id)
    (report,) = do_task(a_task(tmp_path, other, validation, 10))
    assert report.status == "failed"
    assert "Remove the file to train from the beginning" in report.cause
    assert checkpoint_path(folders[1]).exists()


def test_a_checkpoint_made_with_another_torch_is_not_used(data, tmp_path, monkeypatch):
    view, validation = data
    run = a_long_run(view.digest, steps=10)
    with monkeypatch.context() as patch:
        patch.setattr("raystudy.train.checkpoint.versions", lambda: {"torch": "1.0", "numpy": "1.0"})
        stop_after(view, validation, run, tmp_path, 5)
    outcome, checkpoints = resume(view, validation, run, tmp_path)
    assert "torch 1.0" in checkpoints.note
    assert outcome.made["resumed_from_step"] == 0


def test_a_short_run_leaves_no_checkpoint_and_none_are_written_where_none_are_wanted(data, tmp_path, monkeypatch):
    view, validation = data
    written = []
    monkeypatch.setattr("raystudy.train.checkpoint.write_checkpoint", lambda *given: written.append(given))
    run = a_long_run(view.digest, steps=10)
    train(run, view, validation, "cpu", Means(checkpoints=Checkpoints(tmp_path, run.run_id, "cpu", 600.0)))
    train(run, view, validation)
    assert not written
    often = Means(checkpoints=Checkpoints(tmp_path, run.run_id, "cpu", 0.0))
    outcome = train(run, view, validation, "cpu", often)
    assert len(written) == 10
    assert outcome.seconds["checkpoint"] > 0


def test_a_checkpoint_of_a_later_format_is_no_checkpoint_here(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("raystudy.artifacts.checkpoints.FORMAT", "raystudy-checkpoint/2")
        Checkpoints(tmp_path, "a", "cpu", 0.0).keep_if_due(1, {})
    with pytest.raises(StorageError, match="must be a checkpoint of format raystudy-checkpoint/1"):
        read_checkpoint(tmp_path, "a")


def test_a_checkpoint_whose_writer_died_after_the_result_is_removed_and_one_in_use_is_not(tmp_path):
    folders = [tmp_path / "runs" / run_id for run_id in ("done", "going-on")]
    for folder in folders:
        folder.mkdir(parents=True)
        Checkpoints(folder, folder.name, "cpu", 0.0).keep_if_due(1, {})
    (folders[0] / "result.json").write_text("{}")
    remove_leftovers(tmp_path, tmp_path / "studies" / "s", ["done", "going-on", "absent"])
    assert [checkpoint_path(folder).exists() for folder in folders] == [False, True]
