"""A run whose numbers leave the finite ends as diverged and says what was seen: no crash, no finite score."""

import math

import pytest
import torch

from raystudy.artifacts.storage import Storage
from raystudy.execute.work import Task, do_task
from raystudy.specs.schedules import Constant
from raystudy.specs.training import Sgd
from raystudy.train.decoder import Decoder
from tests.conftest import make_shards
from tests.train.test_training import a_run

STEPS = 60


def record_of(storage, run, validation):
    (report,) = do_task(Task((run.model_dump_json(),), str(storage), {validation: "v"}))
    assert report.cause == ""
    record = Storage(storage).runs.read(run.run_id, [validation])
    assert record.status == report.status
    return record


def assert_diverged(record, validation, seen: str) -> None:
    assert record.status == "diverged"
    assert seen in record.result["cause"]
    assert record.metric("loss", validation) is None
    assert record.metric("bits-per-byte", validation) is None
    assert math.isfinite(record.metric("unigram-loss", validation))


def unbounded(view: str, lr: float):
    """SGD without clipping: whatever the learning rate does is seen."""
    run = a_run(view, steps=STEPS, lr=lr)
    schedule = Constant(kind="constant", warmup=0.0)
    settings = {"optimizer": Sgd(kind="sgd", momentum=0.9), "schedule": schedule, "clip": None}
    return run.model_copy(update={"settings": run.settings.model_copy(update=settings)})


def test_nan_at_the_first_step_is_a_diverged_run(tmp_path):
    view, validation = make_shards(tmp_path)
    run = unbounded(view, lr=1e38)
    record = record_of(tmp_path, run, validation)
    assert_diverged(record, validation, "the training loss was nan at step 1")
    assert [row["loss"] is None for row in Storage(tmp_path).runs.read_curve(run.run_id)] == [False, True]


def test_nan_in_the_middle_is_a_diverged_run(tmp_path, monkeypatch):
    view, validation = make_shards(tmp_path)
    forward, calls = Decoder.forward, []

    def breaks_at_step_30(self, tokens):
        calls.append(torch.is_grad_enabled())
        return forward(self, tokens) * (float("nan") if sum(calls) == 31 else 1.0)

    monkeypatch.setattr(Decoder, "forward", breaks_at_step_30)
    record = record_of(tmp_path, a_run(view, steps=STEPS), validation)
    assert_diverged(record, validation, "the training loss was nan at step 30")
    assert record.metric("initial-loss", validation) > 0


def test_a_loss_that_rises_without_ever_being_nan_is_a_diverged_run(tmp_path):
    view, validation = make_shards(tmp_path)
    record = record_of(tmp_path, a_run(view, steps=STEPS, lr=10.0), validation)
    assert_diverged(record, validation, "the training loss rose from 4.1")


def test_nan_in_an_unlogged_last_update_is_seen_in_the_weights(tmp_path, monkeypatch):
    view, validation = make_shards(tmp_path)
    real = torch.optim.AdamW.step

    def breaks_last(self, *arguments):
        real(self, *arguments)
        last = {int(state["step"]) for state in self.state.values()} == {STEPS}
        if last:
            with torch.no_grad():
                self.param_groups[0]["params"][0][3, 3] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", breaks_last)
    record = record_of(tmp_path, a_run(view, steps=STEPS), validation)
    assert_diverged(record, validation, f"weights were not finite after step {STEPS - 1}")


@pytest.mark.parametrize("also_at_first", [False, True])
def test_nan_in_evaluation_alone_is_a_diverged_run(tmp_path, monkeypatch, also_at_first):
    view, validation = make_shards(tmp_path)
    forward, evaluations = Decoder.forward, []

    def breaks_where_nothing_is_learned(self, tokens):
        is_evaluation = not torch.is_grad_enabled()
        evaluations.append(is_evaluation)
        is_first = not all(evaluations) or also_at_first
        return forward(self, tokens) * (float("inf") if is_evaluation and is_first else 1.0)

    monkeypatch.setattr(Decoder, "forward", breaks_where_nothing_is_learned)
    record = record_of(tmp_path, a_run(view, steps=10), validation)
    assert_diverged(record, validation, "the final loss was nan on validation set")
    assert (record.metric("initial-loss", validation) is None) == also_at_first
    assert "rms_logit_change" not in record.result["moved"]
    assert "relative_loss_drop" not in record.result["moved"]


def test_kept_weights_that_break_on_a_new_validation_set_are_told_and_leave_no_score(tmp_path, monkeypatch):
    view, validation = make_shards(tmp_path)
    _, other = make_shards(tmp_path, seed=1)
    run = a_run(view, steps=10)
    record_of(tmp_path, run, validation)
    forward = Decoder.forward
    monkeypatch.setattr(Decoder, "forward", lambda self, tokens: forward(self, tokens) * float("nan"))
    (report,) = do_task(Task((run.model_dump_json(),), str(tmp_path), {validation: "v", other: "far"}))
    assert report.status == "failed"
    assert f"the loss of run {run.run_id} on far must be finite, but is nan" in report.cause
    assert Storage(tmp_path).runs.read(run.run_id, [other]).metric("loss", other) is None
