"""`raystudy parity`: each planted difference makes it fail and is named; an honest reference is the same."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.artifacts.storage import Storage
from raystudy.errors import SpecError
from raystudy.execute import parity as asking
from raystudy.reference.parity.cases import (
    PROBE,
    STUDY,
    TINY,
    Case,
    study_case,
)
from raystudy.reference.parity.judging import OneProcess
from raystudy.reference.parity.naming import named_evaluation
from raystudy.reference.parity.observed import Observed, Sums, read_observed, write_observed
from raystudy.reference.parity.quantities import worst_parameter
from raystudy.reference.parity.replays import replay
from raystudy.reference.training import share_of
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.training import Sgd
from raystudy.train.evaluation import ValidationDocuments
from tests.conftest import ROOT
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(500)

ENTRY = (sys.executable, "-m", "tests.reference.planted_differences")
STEPS = 8
ENGINE = DeepSpeedEngine(kind="deepspeed", workers=2, zero_stage=1, micro_batch_tokens=32)


@pytest.fixture(scope="module")
def asked(shard_storage):
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    documents = {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    run = a_run(view, steps=STEPS).model_copy(update={"engine": "deepspeed"})
    return SimpleNamespace(storage=storage, view=open_view(storage, view), documents=documents, run=run)


@pytest.fixture(scope="module")
def one(asked) -> OneProcess:
    return OneProcess(study_case(asked.run, ENGINE, STEPS), asked.view, asked.documents, "cpu")


@pytest.fixture(scope="module")
def one_in_bf16(asked) -> OneProcess:
    run = asked.run.model_copy(update={"precision": "bf16-master"})
    return OneProcess(study_case(run, ENGINE, STEPS), asked.view, asked.documents, "cpu")


@pytest.fixture(scope="module")
def planted(asked, one, tmp_path_factory) -> Path:
    """The folder in which one pair of workers has left what they saw under every plant."""
    folder = tmp_path_factory.mktemp("parity")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": str(ROOT), "CXX": "/bin/false", "CC": "/bin/false"}.items():
            patch.setenv(name, value)
        digests = dict.fromkeys(asked.documents, "v")
        cause = asking.start_workers(one.cases, Storage(asked.storage), digests, folder, ENTRY)
    assert cause is None, cause
    return folder


def seen_under(planted: Path, name: str) -> dict[str, Observed]:
    """What was seen under a plant; where it has no say, what an honest reference did."""
    places = {case: name if (planted / name / f"{case}.json").exists() else "none" for case in (STUDY, TINY, PROBE)}
    return {case: read_observed(planted / place, case) for case, place in places.items()}


def test_an_honest_reference_is_the_same_and_every_known_difference_would_have_shown(one, planted):
    parity = one.judge("truth", seen_under(planted, "none"))
    assert parity.verdict == "same", parity.rows
    assert parity.named == []
    assert [known.name for known in parity.known if not known.would_show] == []
    assert len(parity.known) == 7
    assert {row.case for row in parity.rows} == {STUDY, TINY, PROBE}
    assert "are the same trainer within the bounds" in parity.sentence
    assert "not visible" not in parity.sentence


def test_an_honest_reference_in_bf16_with_masters_is_the_same_within_its_band(one_in_bf16, planted):
    parity = one_in_bf16.judge("truth", seen_under(planted, "none in bf16"))
    assert parity.verdict == "same", parity.rows
    bounds = {row.quantity: row.bound for row in parity.rows if row.case == STUDY}
    assert 5e-3 <= bounds[f"loss, worst of {STEPS} steps"] < 0.05


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ("no masters", "weights held in bf16, without FP32 masters"),
        ("means of micro-batches", "the mean of micro-batches' means"),
        ("means of workers", "the mean of workers' means in place of the mean over all tokens"),
        ("decay everywhere", "weight decay on biases and norms too"),
        ("fixed epsilon", "an epsilon of AdamW of"),
        ("three times the epsilon", "an epsilon of AdamW of about"),
        ("clipped before", "gradients clipped on each worker before they are averaged"),
        ("mean of means", "an evaluation that is the mean of workers' means"),
        ("dropped", "an evaluation that drops document 5"),
        ("doubled", "an evaluation that counts document 3 twice"),
    ],
)
def test_a_planted_difference_makes_parity_fail_and_is_named_alone(one, planted, plant, words):
    parity = one.judge("truth", seen_under(planted, plant))
    assert parity.verdict == "different"
    assert len(parity.named) == 1, (parity.named, parity.known)
    assert words in parity.named[0]
    assert parity.sentence.startswith("truth: different: the reference behaves like training with ")


def test_lost_masters_are_named_in_bf16_too(one_in_bf16, planted):
    parity = one_in_bf16.judge("truth", seen_under(planted, "no masters in bf16"))
    assert parity.verdict == "different"
    assert parity.named == ["weights held in bf16, without FP32 masters"]
    (row,) = [row for row in parity.rows if row.case == TINY]
    assert row.is_same is False


def test_the_epsilon_is_read_off_the_first_step(one, planted):
    named = one.judge("truth", seen_under(planted, "three times the epsilon")).named[0]
    asked = one.cases[2].run.settings.optimizer.eps
    assert float(named.split("about ")[1].split()[0]) == pytest.approx(3 * asked, rel=0.03)


def honest(one: OneProcess) -> dict[str, Observed]:
    """A reference that does bit for bit what one process does, on its workers' shares."""
    found = {}
    for case in one.cases:
        rows = [sum(end - begin for begin, end in parts) for parts in case.parts]
        found[case.name] = replace(one.seen(case), rows=rows)
    return found


def scaled(seen: Observed, name: str, step: int, by: float) -> Observed:
    curve = [dict(row) for row in seen.curve]
    curve[step][name] *= 1 + by
    return replace(seen, curve=curve)


def with_sums(seen: Observed, **fields) -> dict[str, Sums]:
    return {digest: replace(each, **fields) for digest, each in seen.before.items()}


def shifted(weights, by: float):
    return {name: array + np.float32(by) for name, array in weights.items()}


SPOILT = {
    "sequences a step, by worker": lambda seen: replace(seen, rows=[1, 3]),
    "tokens a step": lambda seen: replace(seen, rows=[2, 3]),
    "order of samples": lambda seen: replace(seen, data_order="another"),
    "learning rates": lambda seen: scaled(seen, "lr", 3, 1e-6),
    "loss of step 1": lambda seen: scaled(seen, "loss", 0, 2e-4),
    f"loss, worst of {STEPS} steps": lambda seen: scaled(seen, "loss", 5, -2e-4),
    "gradient norm of step 1": lambda seen: scaled(seen, "gradient_norm", 0, 2e-4),
    f"gradient norm, worst of {STEPS} steps": lambda seen: scaled(seen, "gradient_norm", 6, 2e-3),
    "weights after step 1": lambda seen: replace(seen, first=shifted(seen.first, 1e-2)),
    f"weights after step {STEPS}": lambda seen: replace(seen, last=shifted(seen.last, 1e-2)),
    "steps clipped": lambda seen: scaled(seen, "gradient_norm", 0, -0.9),
    "parameters": lambda seen: replace(seen, last={}),
}


@pytest.mark.parametrize("quantity", SPOILT)
def test_every_quantity_has_a_row_that_fails_when_it_differs(one, quantity):
    reference = honest(one)
    assert one.judge("m", reference).verdict == "same"
    parity = one.judge("m", {**reference, STUDY: SPOILT[quantity](reference[STUDY])})
    assert parity.verdict == "different"
    assert quantity in [row.quantity for row in parity.rows if row.is_same is False]
    assert all(row.case == STUDY for row in parity.rows if row.is_same is False)


def test_a_difference_that_nobody_knows_is_said_to_be_none_of_the_known(one):
    reference = honest(one)
    noise = np.random.default_rng(0)
    drawn = {k: a + noise.normal(0, 1e-3, a.shape).astype(np.float32) for k, a in reference[PROBE].last.items()}
    parity = one.judge("m", {**reference, PROBE: replace(reference[PROBE], last=drawn)})
    assert parity.verdict == "different"
    assert parity.named == []
    assert "none of the known differences gives the reference's weights (the nearest: " in parity.sentence


def test_a_reference_that_diverges_where_train_does_not_is_different_and_one_that_does_not_fit_is_undecided(one):
    reference = honest(one)
    risen = one.judge("m", {**reference, STUDY: replace(reference[STUDY], problem="the loss rose", last={})})
    assert risen.verdict == "different"
    gone = replace(reference[PROBE], problem="out of memory by its workers", curve=[], before={}, after={})
    parity = one.judge("m", dict.fromkeys(reference, gone))
    assert parity.verdict == "undecided"
    assert "out of memory by its workers. Choose a smaller model" in parity.sentence
    json.dumps(parity.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("times", "verdict"), [(0.9, "same"), (2.0, "undecided"), (4.0, "different")])
def test_in_bf16_a_difference_beyond_the_band_is_undecided_and_far_beyond_it_different(one_in_bf16, times, verdict):
    reference = honest(one_in_bf16)
    rows = one_in_bf16.judge("m", reference).rows
    (bound,) = [row.bound for row in rows if row.quantity.startswith("loss, worst") and row.case == STUDY]
    parity = one_in_bf16.judge("m", {**reference, STUDY: scaled(reference[STUDY], "loss", 4, times * bound)})
    assert parity.verdict == verdict
    assert ("cannot be decided in this precision" in parity.sentence) == (verdict == "undecided")


def test_a_replay_without_a_difference_gives_the_weights_of_train(asked, one):
    for case in one.cases:
        made, seen = replay(case, asked.view, "cpu"), one.seen(case)
        for ours, theirs in ((made.first, seen.first), (made.last, seen.last)):
            assert worst_parameter(one.start, theirs, ours)[1] < (1e-5 if case.name == PROBE else 1e-2)


def test_the_probe_has_unequal_shares_and_micro_batches_as_the_reference_takes_them(one):
    probe = one.cases[2]
    assert [[end - begin for begin, end in parts] for parts in probe.parts] == [[2, 1], [2, 2]]
    for size in (1, 2, 3, 5):
        engine = ENGINE.model_copy(update={"workers": size, "micro_batch_tokens": "auto"})
        parts = Case("any", probe.run, engine).parts
        ends = [(worker[0][0], worker[-1][1]) for worker in parts]
        assert ends == [share_of(7, World(rank, size, rank, "cpu")) for rank in range(size)]


def test_an_optimizer_without_an_epsilon_has_a_probe_in_which_the_rest_would_show(asked):
    optimizer = Sgd(kind="sgd", momentum=0.9, weight_decay=0.1)
    settings = asked.run.settings.model_copy(update={"optimizer": optimizer, "lr": 0.1})
    case = study_case(asked.run.model_copy(update={"settings": settings}), ENGINE, STEPS)
    one = OneProcess(case, asked.view, asked.documents, "cpu")
    parity = one.judge("m", honest(one))
    assert parity.verdict == "same"
    assert [known.name for known in parity.known if not known.would_show] == []
    assert "epsilon" not in [known.name for known in parity.known]


def test_one_worker_alone_is_not_asked_what_only_several_can_do(asked):
    engine = ENGINE.model_copy(update={"workers": 1})
    one = OneProcess(study_case(asked.run, engine, STEPS), asked.view, asked.documents, "cpu")
    known = one.judge("m", honest(one)).known
    assert all(each.would_show for each in known)
    assert {each.name for each in known} == {
        "master precision", "means of micro-batches", "decay", "epsilon", "no clipping"
    }  # fmt: skip


def test_one_per_cent_of_the_epsilon_would_show_and_a_thousandth_of_a_per_cent_would_not(one):
    eps = one.cases[2].run.settings.optimizer.eps
    assert one.replays.effect("epsilon", 1.01 * eps) > 5
    assert one.replays.effect("epsilon", 1.00001 * eps) < 0.1


def test_an_evaluation_that_fits_nothing_known_is_not_named():
    ours = Sums(np.array([3.0, 5.0, 7.0]), np.array([1, 2, 3]))
    theirs = replace(ours, loss_sum=ours.loss_sum * 1.1)
    assert named_evaluation({"v": ours}, {"v": theirs}, 2) == []
    assert named_evaluation({"v": ours}, {}, 2) == ["an evaluation that leaves out a validation set"]
    fewer = Sums(ours.loss_sum[:2], ours.num_tokens[:2])
    assert named_evaluation({"v": ours}, {"v": fewer}, 2) == ["an evaluation of 2 documents in place of 3"]


def test_what_was_seen_comes_back_from_its_folder(one, tmp_path):
    seen = one.seen(one.cases[0])
    write_observed(tmp_path, "a case", seen)
    back = read_observed(tmp_path, "a case")
    assert (back.curve, back.rows, back.data_order) == (seen.curve, seen.rows, seen.data_order)
    assert all(np.array_equal(back.last[name], array) for name, array in seen.last.items())
    (ours,), (theirs,) = seen.before.values(), back.before.values()
    assert np.array_equal(ours.loss_sum, theirs.loss_sum)


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_a_number_of_steps_out_of_range_is_refused(asked, steps):
    with pytest.raises(SpecError, match="--steps must be from 2 to 99"):
        study_case(asked.run, ENGINE, steps)


def test_a_schedule_that_does_not_fit_into_the_steps_is_refused_with_a_way_out(asked):
    schedule = asked.run.settings.schedule.model_copy(update={"warmup": 0.05, "warmup_steps": 9})
    settings = asked.run.settings.model_copy(update={"schedule": schedule, "steps": 50})
    with pytest.raises(SpecError, match="Raise --steps, or give warm-up and decay as shares"):
        study_case(asked.run.model_copy(update={"settings": settings}), ENGINE, STEPS)
