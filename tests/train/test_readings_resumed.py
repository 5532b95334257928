"""A run that is read on its way, stopped and gone on with: the same readings bit for bit, and none is lost."""

import shutil
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import StoppedError
from raystudy.execute import branch_start
from raystudy.execute.work import Task, do_task
from raystudy.specs.reading import Asked, Average, Ema, Reading
from raystudy.specs.schedules import WarmupStableDecay
from raystudy.specs.training import AdamW, Sgd
from raystudy.train import stop_request
from raystudy.train.checkpoint import Checkpoints
from raystudy.train.run import Means, Start, replay, train
from raystudy.train.training import Training
from tests.conftest import make_shards
from tests.train.test_budgets import Kept, branch_of, constant, loss_of
from tests.train.test_budgets import data as data  # a fixture

EMA, AVERAGE = Ema(kind="ema", half_life=3.0), Average(kind="average", share=0.9, points=5)
ASKED = Asked(
    readings=(
        Reading(step=4),
        Reading(step=12),
        Reading(step=12, readout=AVERAGE),
        Reading(step=20, readout=EMA),
        Reading(step=20, readout=AVERAGE),
    ),
    checkpoints=(8, 12),
)


class _StoppedError(Exception):
    pass


def checkpoints(folder, run, asked=ASKED, stop: int | None = None) -> Means:
    """Checkpoints after every step, up to where the process fails as a dying worker would; or none any more."""

    class Stopping(Checkpoints):
        def keep_if_due(self, now, parts):
            taken = super().keep_if_due(now, parts)
            if now == stop:
                raise _StoppedError
            return taken

    return Means(checkpoints=Stopping(folder, run.run_id, "cpu", 1e9 if stop is None else 0.0, asked))


def with_settings(run, **changes):
    return run.model_copy(update={"settings": run.settings.model_copy(update=changes)})


@pytest.mark.parametrize("precision", ["fp32", "bf16-weights"])
@pytest.mark.parametrize("stop", [3, 4, 10, 12, 20])
def test_a_run_that_is_read_goes_on_from_its_checkpoint_with_the_same_readings(data, tmp_path, stop, precision):
    view, validation = data
    run = constant(view, 20).model_copy(update={"precision": precision})
    whole, parts = Kept(), Kept()
    undisturbed = train(run, view, validation, asked=ASKED, keeping=whole.keeping)
    with pytest.raises(_StoppedError):
        train(run, view, validation, "cpu", checkpoints(tmp_path, run, stop=stop), asked=ASKED, keeping=parts.keeping)
    before = set(parts.reads)
    assert all(reading.step < stop for reading in before), "a checkpoint comes before what is due at its step"
    second = Kept()
    outcome = train(run, view, validation, "cpu", checkpoints(tmp_path, run), asked=ASKED, keeping=second.keeping)
    assert outcome.made["resumed_from_step"] == stop
    assert not before & set(second.reads), "what was read is not read again"
    assert loss_of(outcome.final) == loss_of(undisturbed.final)
    reads, points = {**parts.reads, **second.reads}, {**parts.points, **second.points}
    assert set(reads) == set(whole.reads) == set(ASKED.readings)
    for reading, read in whole.reads.items():
        assert loss_of(read.evaluations) == loss_of(reads[reading].evaluations), reading
        assert all(np.array_equal(weight, reads[reading].weights[name]) for name, weight in read.weights.items())
    for step in ASKED.checkpoints:
        kept = whole.points[step]
        differing = [name for name, array in kept.items() if not np.array_equal(array, points[step][name])]
        assert not differing, step


def test_a_checkpoint_for_other_readings_is_not_gone_on_from_and_that_is_told(data, tmp_path):
    view, validation = data
    run, kept = constant(view, 20), Kept()
    with pytest.raises(_StoppedError):
        train(run, view, validation, "cpu", checkpoints(tmp_path, run, Asked(), stop=10))
    means = checkpoints(tmp_path, run)
    outcome = train(run, view, validation, "cpu", means, asked=ASKED, keeping=kept.keeping)
    assert outcome.made["resumed_from_step"] == 0
    assert "begun anew" in means.checkpoints.note
    assert set(kept.reads) == set(ASKED.readings)


@pytest.mark.parametrize(
    ("optimizer", "precision", "shape"),
    [
        (AdamW(), "bf16-weights", "linear"),
        (Sgd(kind="sgd", momentum=0.9), "fp32", "linear"),
        (AdamW(), "fp32", "1-sqrt"),
    ],
)
def test_a_branch_of_any_optimizer_precision_and_shape_is_one_wsd_run(data, optimizer, precision, shape):
    view, validation = data
    at, extra = 12, 6
    parent = with_settings(constant(view, 20), optimizer=optimizer).model_copy(update={"precision": precision})
    decay = WarmupStableDecay(kind="wsd", warmup=0, decay=1, decay_shape=shape)
    branch = with_settings(branch_of(parent, at, extra), schedule=decay)
    outcome = train(branch, view, validation, start=Start(replay(parent, view, at, "cpu"), parent))
    schedule = WarmupStableDecay(kind="wsd", warmup_steps=4, decay_steps=extra, decay_shape=shape)
    wsd = train(with_settings(parent, steps=at + extra, schedule=schedule), view, validation)
    assert loss_of(outcome.final) == loss_of(wsd.final)
    assert outcome.epochs == wsd.epochs


def test_why_a_run_diverged_does_not_depend_on_where_it_is_read(data):
    view, validation = data
    run = constant(view, 60, lr=1e5)
    asked = Asked(readings=tuple(Reading(step=step) for step in range(1, 60, 7)))
    read, plain = train(run, view, validation, asked=asked, keeping=Kept().keeping), train(run, view, validation)
    assert plain.status == read.status == "diverged"
    assert plain.cause == read.cause


def test_steps_of_parents_taken_again_go_on_where_they_were_stopped_however_often(tmp_path):
    """Of a branch of a branch, two steps in each job: with SIGTERM or a walltime such a job ends as here."""
    view, validation = make_shards(tmp_path)
    first = constant(SimpleNamespace(digest=view), 20)
    second = branch_of(first, 10, 8)
    third = branch_of(second, 6, 4)
    storage = Storage(tmp_path)

    def task(run):
        return Task((run.model_dump_json(),), str(tmp_path), {validation: "v"}, checkpoint_minutes=1e9)

    def made_in_jobs(run):
        for jobs in range(1, 30):
            with suppress(StoppedError), StopAfter(2):
                (report,) = do_task(task(run))
                assert report.status == "finished", report.cause
                return jobs, storage.runs.read(run.run_id, [validation])
        raise AssertionError("no progress")

    for run in (first, second, third):
        do_task(task(run))
    calm = storage.runs.read(third.run_id, [validation])
    shutil.rmtree(storage.runs.folder(third.run_id))
    for run in (first, second):
        for kept in storage.runs.folder(run.run_id).glob("branch-*"):
            kept.unlink()
    jobs, record = made_in_jobs(third)
    assert jobs == 11, "two steps each: 10 of the first run, 6 of the second, 4 of its own; then its evaluation"
    assert record.metrics == calm.metrics
    assert record.result["moved"] == calm.result["moved"]
    assert record.result["replayed_steps"] == 6
    assert record.result["provenance"]["resumed_from_step"] == 4
    seconds = record.result["seconds"]
    assert 0 < seconds["replay"] < seconds["earlier"] < record.used_seconds
    assert not list(storage.runs.folder(third.run_id).glob("checkpoint*"))


class StopAfter:
    """Asks for a stop after `most` steps, of whatever training."""

    def __init__(self, most: int) -> None:
        self._left, self._take = most, Training._take_step

    def __enter__(self) -> None:
        def take(training):
            row = self._take(training)
            self._left -= 1
            if not self._left:
                stop_request.request("the walltime ends")
            return row

        Training._take_step = take

    def __exit__(self, *_: object) -> None:
        Training._take_step = self._take
        stop_request.withdraw()


def test_a_branch_goes_on_from_its_own_checkpoint_without_its_parents_steps(data, tmp_path, monkeypatch):
    view, validation = data
    parent = constant(view, 20)
    branch = branch_of(parent, 10, 8)
    replays: list[int] = []

    def replayed(*_):
        replays.append(10)
        return Start(replay(parent, view, 10, "cpu"), parent, replayed_steps=10)

    monkeypatch.setattr(branch_start, "start_of", replayed)
    monkeypatch.setattr(branch_start, "_parent", lambda *_: parent)

    def begin(means):
        start = branch_start.start_or_go_on(branch, Storage(tmp_path), view, "cpu", "auto", means.checkpoints)
        return start, train(branch, view, validation, "cpu", means, asked=ASKED, start=start)

    whole = train(branch, view, validation, asked=ASKED, start=replayed())
    with pytest.raises(_StoppedError):
        begin(checkpoints(tmp_path, branch, stop=3))
    assert replays == [10, 10]
    means = checkpoints(tmp_path, branch)
    start, outcome = begin(means)
    assert replays == [10, 10], "its parent was replayed again"
    assert (start.arrays, start.replayed_steps, means.checkpoints.resumed_from) == (None, 10, 3)
    assert loss_of(outcome.final) == loss_of(whole.final)
    assert outcome.curve == whole.curve
    assert outcome.moved == whole.moved
