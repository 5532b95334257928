"""Step budgets, branches and read-outs of one run: each is, bit for bit on a CPU, what a run of its own would give."""

import numpy as np
import pytest
import torch

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.errors import StorageError
from raystudy.specs.reading import Asked, Average, Ema, Reading
from raystudy.specs.run import StartsFrom, TrainRun
from raystudy.specs.schedules import Constant, WarmupStableDecay
from raystudy.train.evaluation import ValidationDocuments, evaluate
from raystudy.train.on_the_way import Keeping
from raystudy.train.readouts import Readouts
from raystudy.train.run import Start, load_weights, replay, train
from raystudy.train.training import Training
from tests.train.test_training import a_run

WARMUP = 4  # steps


@pytest.fixture(scope="module")
def data(shard_storage):
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    return open_view(storage, view), {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}


def constant(view, steps: int, **changes) -> TrainRun:
    """A run at a constant learning rate whose warm-up takes the same steps whatever its length."""
    run = a_run(view.digest, steps=steps, **changes)
    schedule = Constant(kind="constant", warmup=WARMUP / steps)
    return run.model_copy(update={"settings": run.settings.model_copy(update={"schedule": schedule})})


class Kept:
    """All that comes up on the way of a run."""

    def __init__(self) -> None:
        self.reads, self.points = {}, {}
        self.keeping = Keeping(
            read=lambda read: self.reads.setdefault(read.reading, read),
            branch_point=lambda step, arrays: self.points.setdefault(step, arrays),
        )


def loss_of(evaluations) -> list[float]:
    return [float(loss) for evaluation in evaluations.values() for loss in evaluation.loss_sum]


def test_a_score_at_a_step_of_a_long_constant_run_is_that_of_a_run_of_so_many_steps(data):
    view, validation = data
    kept, steps = Kept(), (8, 20, 40)
    asked = Asked(readings=tuple(Reading(step=step) for step in steps))
    long = train(constant(view, 64), view, validation, asked=asked, keeping=kept.keeping)
    for step in steps:
        alone = train(constant(view, step), view, validation)
        assert loss_of(alone.final) == loss_of(kept.reads[Reading(step=step)].evaluations), step
        weights = kept.reads[Reading(step=step)].weights
        assert all(np.array_equal(weights[name], alone.weights[name]) for name in weights)
    unasked = train(constant(view, 64), view, validation)
    assert loss_of(unasked.final) == loss_of(long.final), "being read changes nothing"
    assert unasked.curve == long.curve
    assert 0 < long.seconds["evaluation"] + long.seconds["training"] <= long.seconds["total"]


def branch_of(parent: TrainRun, at: int, steps: int) -> TrainRun:
    settings = parent.settings.model_copy(
        update={"steps": steps, "schedule": WarmupStableDecay(kind="wsd", warmup=0, decay=1)}
    )
    return parent.model_copy(update={"settings": settings, "starts_from": StartsFrom(run_id=parent.run_id, step=at)})


def test_a_constant_run_with_a_decay_branch_gives_the_losses_of_one_wsd_run(data):
    view, validation = data
    at, extra = 24, 8
    parent, kept = constant(view, 40), Kept()
    train(parent, view, validation, asked=Asked(checkpoints=(at,)), keeping=kept.keeping)
    branch = branch_of(parent, at, extra)
    outcome = train(branch, view, validation, start=Start(kept.points[at], parent))
    whole = a_run(view.digest, steps=at + extra)
    schedule = WarmupStableDecay(kind="wsd", warmup=WARMUP / (at + extra), decay=extra / (at + extra))
    whole = whole.model_copy(update={"settings": whole.settings.model_copy(update={"schedule": schedule})})
    wsd = train(whole, view, validation)
    assert loss_of(outcome.final) == loss_of(wsd.final)
    assert [row["loss"] for row in outcome.curve] == [row["loss"] for row in wsd.curve[-extra:]]
    assert [row["lr"] for row in outcome.curve] == [row["lr"] for row in wsd.curve[-extra:]]
    started = Training(branch, view, "cpu")
    started.start_from(kept.points[at])
    assert started.first_loss == wsd.curve[0]["loss"], "a branch is compared with where its parent began"
    assert loss_of(outcome.initial) == loss_of(wsd.initial), "both began at the same initialisation"
    assert outcome.epochs == wsd.epochs
    assert outcome.moved == pytest.approx(wsd.moved)
    assert branch.num_tokens == extra * 4 * 16, "a branch takes its own steps alone"


def test_a_branch_whose_first_batch_is_easier_than_its_last_ones_is_finished(data, monkeypatch):
    view, validation = data
    parent, kept, at, real = constant(view, 40), Kept(), 32, Training.read_batch

    def half_easy(training: Training, first: int, count: int):
        batch = real(training, first, count)
        place = first // count
        batch[: count // 2 if place < at else count if place == at else 0] = 1
        return batch

    monkeypatch.setattr(Training, "read_batch", half_easy)
    train(parent, view, validation, asked=Asked(checkpoints=(at,)), keeping=kept.keeping)
    outcome = train(branch_of(parent, at, 8), view, validation, start=Start(kept.points[at], parent))
    assert sum(row["loss"] for row in outcome.curve[-3:]) / 3 > 1.06 * outcome.curve[0]["loss"], "the first is easier"
    assert (outcome.status, outcome.cause) == ("finished", "")


def test_replaying_the_parent_gives_what_it_would_have_kept(data):
    view, validation = data
    parent, kept = constant(view, 30), Kept()
    train(parent, view, validation, asked=Asked(checkpoints=(12,)), keeping=kept.keeping)
    again = replay(parent, view, 12, "cpu")
    assert again.keys() == kept.points[12].keys()
    assert all(np.array_equal(again[name], kept.points[12][name]) for name in again)
    assert any(name.startswith("optimizer/exp_avg/") for name in again)


def test_a_branch_point_of_another_model_is_refused(data):
    view, _ = data
    arrays = Training(constant(view, 8), view, "cpu").branch_point()
    other = Training(constant(view, 8, width=8), view, "cpu")
    with pytest.raises(StorageError, match="weights of its own model"):
        other.start_from(arrays)


@pytest.mark.parametrize(
    "readout",
    [
        Average(kind="average", share=0.5, points=4),
        Average(kind="average", share=1.0, points=1000),
        Ema(kind="ema", half_life=3.0),
        Ema(kind="ema", share=0.25),
    ],
)
def test_a_read_out_is_the_weighted_mean_of_the_weights_it_names(data, readout):
    view, validation = data
    run, kept, last = constant(view, 16), Kept(), 12
    steps = tuple(Reading(step=step) for step in range(1, 17))
    chosen = (Reading(step=last, readout=readout), Reading(step=16, readout=readout))
    train(run, view, validation, asked=Asked(readings=(*steps, *chosen)), keeping=kept.keeping)
    for reading in chosen:
        if isinstance(readout, Average):
            parts = dict.fromkeys(readout.steps(reading.step), 1.0)
        else:
            half = readout.steps_to_half(reading.step)
            parts = {step: 0.5 ** ((reading.step - step) / half) for step in range(1, reading.step + 1)}
        read = kept.reads[reading]
        for name, values in read.weights.items():
            each = [share * kept.reads[Reading(step=step)].weights[name].astype(float) for step, share in parts.items()]
            np.testing.assert_allclose(values, sum(each) / sum(parts.values()), rtol=1e-4, atol=1e-6)
        model = load_weights(run, read.weights)
        (digest,) = validation
        again = evaluate(model, validation[digest], run.model.context, "cpu")
        np.testing.assert_array_equal(again.loss_sum, read.evaluations[digest].loss_sum)


def test_the_steps_of_an_average_are_evenly_spaced_and_end_at_the_score():
    assert Average(kind="average", share=0.4, points=4).steps(100) == (70, 80, 90, 100)
    assert Average(kind="average", share=0.1, points=10).steps(30) == (28, 29, 30)
    assert Average(kind="average", share=0.01).steps(3) == (3,)
    for last in range(1, 60):
        steps = Average(kind="average", share=0.37, points=5).steps(last)
        assert len(set(steps)) == len(steps)
        assert 1 <= steps[0] <= steps[-1] == last


def test_read_outs_go_on_from_their_state_as_if_nothing_had_happened():
    generator = torch.Generator().manual_seed(0)
    weights = [{"a": torch.randn(3, generator=generator)} for _ in range(10)]
    readings = [
        Reading(step=10, readout=Ema(kind="ema", half_life=2.0)),
        Reading(step=9, readout=Average(kind="average", share=0.8)),
    ]
    whole, first, second = Readouts(readings), Readouts(readings), Readouts(readings)
    for step, now in enumerate(weights, start=1):
        whole.update(step, now)
        (first if step <= 5 else second).update(step, now)
        if step == 5:
            second.load_state(*first.state())
    for reading in readings:
        assert torch.equal(whole.take(reading)["a"], second.take(reading)["a"])


def test_a_run_that_diverges_later_keeps_its_earlier_scores_and_says_which_it_has_not(data):
    view, validation = data
    kept = Kept()
    asked = Asked(readings=(Reading(step=2), Reading(step=190, readout=Ema(kind="ema"))))
    outcome = train(constant(view, 200, lr=1e4), view, validation, asked=asked, keeping=kept.keeping)
    assert outcome.status == "diverged"
    assert not kept.reads[asked.readings[1]].evaluations
