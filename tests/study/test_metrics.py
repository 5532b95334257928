"""Means over validation sets by name, bits per byte, tasks: worked out by hand from a record's rows."""

import json
import math
from dataclasses import replace

import pytest

from raystudy.artifacts.results import Record
from raystudy.specs.metrics import known_metrics, read_metric
from raystudy.study.comparing import compare_study, guards
from raystudy.study.preregistration import differences, registered_content
from raystudy.study.state import StudyInputs, StudyState
from tests.planted import RECIPES, curved_loss, inputs_of, planted_state, study_spec

INPUTS = StudyInputs({}, {"p": "P", "q": "Q"}, 32, tasks={"quiz": "T"}, sizes={"p": (100, 400), "q": (300, 600)})
ROWS = {
    ("loss", "P"): 3.0,
    ("loss", "Q"): 5.0,
    ("bits-per-byte", "P"): 3.0 * 100 / 400 / math.log(2),
    ("bits-per-byte", "Q"): 5.0 * 300 / 600 / math.log(2),
    ("unigram-loss", "P"): 6.0,
    ("unigram-loss", "Q"): 8.0,
    ("trigram-loss", "P"): 4.0,
    ("trigram-loss", "Q"): 4.5,
    ("accuracy", "T"): 0.75,
    ("margin", "T"): -2.0,
}


def a_state(rows=None, inputs=INPUTS, **changes) -> tuple[StudyState, object]:
    quiz = {"kind": "jsonl", "files": ["quiz.jsonl"]}
    study = study_spec(tasks={"quiz": quiz}, **changes)
    state = StudyState(
        study, replace(inputs_of(study), validation=inputs.validation, tasks=inputs.tasks, sizes=inputs.sizes), {}
    )
    run = state.want("proxy", "a", 1e-2, 0)
    record = Record(run.run_id, "finished", ROWS if rows is None else rows, {"seconds": {"total": 1.0}})
    return state.with_records({run.run_id: record}), run


def test_each_metric_is_the_mean_that_its_name_says():
    state, run = a_state()
    bits = [ROWS["bits-per-byte", "P"], ROWS["bits-per-byte", "Q"]]
    expected = {
        "loss": (4.0, 7.0, 4.25),
        "loss/q": (5.0, 8.0, 4.5),
        "loss-token-weighted": ((3 * 100 + 5 * 300) / 400, (6 * 100 + 8 * 300) / 400, (4 * 100 + 4.5 * 300) / 400),
        "bits-per-byte": (sum(bits) / 2, None, None),
        "bits-per-byte/p": (bits[0], 6.0 * 100 / 400 / math.log(2), 4.0 * 100 / 400 / math.log(2)),
        "bits-per-byte-byte-weighted": (
            (3 * 100 + 5 * 300) / 1000 / math.log(2),
            (6 * 100 + 8 * 300) / 1000 / math.log(2),
            None,
        ),
    }
    for metric, (loss, unigram, trigram) in expected.items():
        assert state.loss(run, metric) == pytest.approx(loss), metric
        if unigram is not None:
            assert state.unigram_loss(run, metric) == pytest.approx(unigram), metric
        if trigram is not None:
            assert state.trigram_loss(run, metric) == pytest.approx(trigram), metric


def test_a_tasks_metric_is_negated_as_a_score_and_not_as_a_value():
    state, run = a_state()
    assert (state.loss(run, "task/quiz/accuracy"), state.value(run, "task/quiz/accuracy")) == (-0.75, 0.75)
    assert state.loss(run, "task/quiz/margin") == 2.0
    assert math.isnan(state.unigram_loss(run, "task/quiz/accuracy"))
    assert math.isnan(state.loss(run, "task/quiz/probability")), "not in the record"


def test_what_is_not_known_is_no_number():
    state, run = a_state(inputs=replace(INPUTS, sizes={"p": (100, 400)}))
    assert math.isnan(state.loss(run, "loss-token-weighted"))
    assert math.isnan(state.unigram_loss(run, "bits-per-byte/q"))
    assert state.loss(run, "bits-per-byte/q") == ROWS["bits-per-byte", "Q"], "a record says it itself"
    state, run = a_state({key: value for key, value in ROWS.items() if key != ("loss", "Q")})
    assert math.isnan(state.loss(run, "loss"))
    assert not state.is_done(run)


def test_a_run_is_done_when_its_tasks_are_answered_too():
    state, run = a_state()
    assert state.is_done(run)
    state, run = a_state({key: value for key, value in ROWS.items() if key[1] != "T"})
    assert not state.is_done(run)
    lost = Record(run.run_id, "diverged", {}, {"seconds": {"total": 1.0}})
    assert state.with_records({run.run_id: lost}).is_done(run), "a diverged run has nothing to answer with"
    assert state.with_records({run.run_id: lost}).loss(run, "task/quiz/accuracy") == math.inf


def test_the_unigram_floor_guards_every_metric_by_the_loss_behind_it():
    state, run = a_state({**ROWS, ("loss", "P"): 6.5, ("bits-per-byte", "P"): 0.1})
    runs = {"a": [run]}
    barely = {
        metric: guards(state, runs, metric, {})["barely_trained"] for metric in known_metrics(["p", "q"], ["quiz"])
    }
    assert barely["loss/p"] == barely["bits-per-byte/p"] == ["a"]
    assert barely["loss"] == barely["bits-per-byte"] == barely["task/quiz/accuracy"] == []
    assert {read_metric(metric).guard for metric in barely} == {"loss", "loss/p", "loss/q", "loss-token-weighted"}


def test_a_study_compares_losses_tasks_and_what_it_asks_for_each_once():
    asked = {"primary_metric": "bits-per-byte", "metrics": ["loss-token-weighted", "loss", "task/quiz/margin"]}
    state, _ = a_state(comparison=asked)
    assert state.metrics == [
        "loss", "loss/p", "loss/q", "bits-per-byte", "loss-token-weighted", "task/quiz/margin",
        "task/quiz/accuracy", "task/quiz/probability",
    ]  # fmt: skip
    assert state.unit == "bits per byte"


def test_the_verdict_may_rest_on_a_weighted_mean_and_the_comparison_says_what_it_is():
    order = {name: 4.0 + 0.1 * index for index, name in enumerate(RECIPES)}
    study = study_spec(comparison={"primary_metric": "loss-token-weighted", "resamples": 300})
    state = planted_state(curved_loss(order, dict.fromkeys(RECIPES, 1e-2)), study)
    state = replace(state, inputs=replace(state.inputs, sizes={"p": (10, 20), "q": (30, 40)}))
    comparison = compare_study(state)
    assert comparison["unit"] == "nats per token"
    assert "loss-token-weighted" in {entry["metric"] for entry in comparison["comparisons"]}
    assert "counts every scored token" in comparison["conventions"]["loss-token-weighted"]
    assert comparison["tuned_losses"][0]["loss"] == pytest.approx(4.0, abs=0.02)
    assert json.dumps(comparison, allow_nan=False)


def test_a_task_made_from_leaked_text_is_flagged_and_one_from_elsewhere_is_not():
    tasks = {"made": {"kind": "continuation", "validation": "p"}, "own": {"kind": "jsonl", "files": ["x.jsonl"]}}
    study = study_spec(tasks=tasks)
    inputs = replace(inputs_of(study), leaked={"a": {"p": 0.5}})
    state = StudyState(study, inputs, {})
    assert state.leaked_sets("a", "task/made/accuracy") == ["p"]
    assert state.leaked_sets("a", "task/own/accuracy") == []
    assert state.leaked_sets("a", "loss/q") == []
    assert state.leaked_sets("a", "loss") == ["p"]


def test_a_lock_on_a_tasks_metric_covers_what_the_task_is():
    quiz = {"kind": "jsonl", "files": ["quiz.jsonl"]}
    asked = {"primary_metric": "task/quiz/accuracy"}
    locked = registered_content(study_spec(tasks={"quiz": quiz}, comparison=asked))
    assert differences(locked, registered_content(study_spec(tasks={"quiz": quiz}, comparison=asked))) == []
    longer = study_spec(tasks={"quiz": quiz | {"max_items": 3}}, comparison=asked)
    assert differences(locked, registered_content(longer)) == ["task"]
    assert "task" not in registered_content(study_spec())
