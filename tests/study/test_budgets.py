"""Protocols at steps, of read-outs and of branches as waves over planted records."""

from dataclasses import replace

import pytest

from raystudy.errors import SpecError
from raystudy.specs.reading import Asked, Reading
from raystudy.study.cost import cost
from raystudy.study.plan import lacking_evaluations, lacking_readings, make_plan
from raystudy.study.preregistration import differences, registered_content
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave
from tests.planted import RECIPES, SPACE, inputs_of, record_of, study_spec

TRAINING = {"steps": 100, "batch_tokens": 64, "schedule": {"kind": "constant"}}
TRUTH = {"kind": "tuned", "model": "target", "space": {"lr": {"grid": [1e-3, 1e-2], "extend": 0}}, "seeds": [0]}
LADDER = {"kind": "lr-ladder", "model": "proxy", "space": SPACE, "seeds": [0]}


def a_study(**protocols):
    return study_spec(protocols={"truth": TRUTH, **protocols}, comparison={}, training=TRAINING)


def state_of(study, *, readings: bool = True) -> StudyState:
    """Every run has ended; a reading after k steps has the loss 10 - k/100, the last weights 1."""
    inputs, records = inputs_of(study), {}
    while todo := make_wave(state := StudyState(study, inputs, records)).todo:
        for run in todo:
            assert run.run_id not in records, "nothing is made twice"
            record = record_of(run, 1.0, inputs)
            told = {
                reading: {("loss", digest): 10 - reading.step / 100 for digest in inputs.validation.values()}
                for reading in (run.asked.readings if readings else ())
            }
            records = {**records, run.run_id: replace(record, readings=told)}
        if not readings:
            return StudyState(study, inputs, records)
    return state


def test_several_steps_are_one_protocol_each_over_the_same_runs():
    state = state_of(a_study(ladder={**LADDER, "at_steps": [20, 60]}))
    scored = [s for protocol in protocols_of(state.study).values() for s in protocol.scored(state)]
    names = [f"ladder@step{step}@{lr:g}" for step in (20, 60) for lr in (1e-3, 1e-2, 1e-1)]
    assert [one.name for one in scored] == ["truth", *names]
    assert [one.ladder for one in scored[1:]] == ["ladder@step20"] * 3 + ["ladder@step60"] * 3
    assert [one.scores["loss"].values[0, 0] for one in scored] == [1.0] + [9.8] * 3 + [9.4] * 3
    assert len(make_wave(state).wanted) == len(RECIPES) * (2 + 3)
    plan = make_plan(state, 1)
    assert [(row.protocol, row.wanted, row.done) for row in plan.rows[1:]] == [
        ("ladder@step20", 24, 24),
        ("ladder@step60", 24, 24),
    ]
    assert plan.rows[1].model == "proxy"
    assert plan.total.wanted == 40


def test_a_run_on_record_that_was_not_read_at_a_step_is_wanted_again():
    study = a_study(low={"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "step": 20})
    state = state_of(study, readings=False)
    assert len(make_wave(state).todo) == len(RECIPES)
    lacking = lacking_evaluations(state)
    assert len(lacking) == len(RECIPES)
    assert lacking_readings(state, lacking[0]) == [Reading(step=20)]
    assert protocols_of(study)["low"].scored(state)[0].scores["loss"].values[0, 0] != 1.0
    whole = state_of(study)
    assert not make_wave(whole).todo
    assert not lacking_evaluations(whole)


def test_a_tuned_protocol_at_a_step_chooses_its_learning_rate_there():
    study = a_study(early={**TRUTH, "model": "proxy", "step": 20})
    state = state_of(study)
    early = protocols_of(study)["early"]
    best = early.sweep(state, "a")
    assert best.is_complete
    assert best.means.tolist() == [9.8, 9.8]
    assert cost(state, early.scored(state)[0].all_runs)["tokens"] == len(RECIPES) * 2 * 20 * 64


def test_a_branch_is_wanted_once_its_parent_has_ended_and_costs_its_own_steps():
    decayed = {"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "branch": {"at": 40, "steps": 10}}
    study = a_study(decayed=decayed)
    first = make_wave(StudyState(study, inputs_of(study), {}))
    assert [(name, item.num_runs, item.num_tokens) for name, item in first.waiting] == [
        ("decayed", len(RECIPES), len(RECIPES) * 10 * 64)
    ]
    assert all(run.parent is None for run in first.todo)
    parents = [run for run in first.todo if run.asked.checkpoints]
    assert len(parents) == len(RECIPES)
    state = state_of(study)
    assert not make_wave(state).waiting
    (scored,) = protocols_of(study)["decayed"].scored(state)
    assert cost(state, scored.all_runs) == {
        "num_runs": 2 * len(RECIPES),
        "tokens": len(RECIPES) * (40 + 10) * 64,
        "flops": pytest.approx(sum(run.flops for runs in scored.runs.values() for run in runs) * 5),
        "device_seconds": pytest.approx(len(RECIPES) * (0.4 + 1) * 2.0),
    }
    ids = {run.run_id for run in make_wave(state).wanted.values()}
    assert {run.run.starts_from.run_id for runs in scored.runs.values() for run in runs} <= ids


def test_a_rule_whose_best_run_is_also_a_branchs_parent_costs_its_whole_sweep():
    rule = {"ratio": 1, "baseline": RECIPES[0], "space": {"lr": {"grid": [1e-3, 1e-2], "extend": 0}}}
    decayed = {"kind": "reduced-lr", "model": "proxy", "lr": rule, "branch": {"at": 40, "steps": 10}}
    state = state_of(a_study(decayed=decayed))
    (scored,) = protocols_of(state.study)["decayed"].scored(state)
    sweep, parents, branches = 2 * 100, (len(RECIPES) - 1) * 40, len(RECIPES) * 10
    assert cost(state, scored.all_runs)["tokens"] == (sweep + parents + branches) * 64


def test_a_run_rests_on_the_last_step_that_anything_asks_of_it():
    state = state_of(a_study(low={"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "step": 20}))
    run = next(run for run in make_wave(state).wanted.values() if run.asked.readings)
    for asked in (
        Asked(checkpoints=(40,)),
        Asked(readings=(Reading(step=40),), checkpoints=(30,)),
        Asked(readings=(Reading(step=30), Reading(step=40))),
    ):
        assert replace(run, reading=Reading(step=20), asked=asked).share_needed == 0.4, asked
    assert replace(run, reading=None, asked=Asked(checkpoints=(30,))).share_needed == 0.3


def test_a_step_that_only_the_resolved_budget_shows_to_be_wrong_is_told():
    training = {**TRAINING, "steps": None, "tokens_per_parameter": 1}
    study = study_spec(
        protocols={"truth": TRUTH, "low": {"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "step": 10**6}},
        comparison={},
        training=training,
    )
    with pytest.raises(SpecError, match="model 'proxy': a step must be one of the run's"):
        make_wave(StudyState(study, inputs_of(study), {}))


def test_a_lock_made_before_a_field_existed_still_holds():
    study = a_study(low={"kind": "reduced-lr", "model": "proxy", "lr": 1e-3})
    now = registered_content(study)
    older = {**now, "candidates": {}, "truth": {}}
    for part in ("candidates", "truth"):
        for name, spec in now[part].items():
            older[part][name] = {key: value for key, value in spec.items() if key not in ("step", "readout", "branch")}
    assert differences(older, now) == []
    changed = a_study(low={"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "step": 50})
    assert differences(older, registered_content(changed)) == ["candidates.low"]


@pytest.mark.parametrize("changes", [{"at_steps": [20, 60]}, {"branch": {"at": 40, "steps": 10}}])
def test_a_sweep_whose_best_runs_will_be_scored_at_steps_is_read_there_at_once(changes):
    rule = {"ratio": 1, "best_on_average": True, "space": {"lr": {"grid": [1e-3, 1e-2], "extend": 0}}}
    study = a_study(standard={"kind": "standard-lr", "model": "proxy", "lr": rule, **changes})
    first = make_wave(StudyState(study, inputs_of(study), {}))
    swept = [run for run in first.todo if run.model == "proxy"]
    assert len(swept) == 2 * len(RECIPES)
    asked = {run.asked for run in swept}
    assert len(asked) == 1
    (ask,) = asked
    assert (ask.readings, ask.checkpoints) == (
        ((Reading(step=20), Reading(step=60)), ()) if "at_steps" in changes else ((), (40,))
    )
    state = state_of(study)
    assert not lacking_evaluations(state)
    assert not make_wave(state).todo
    other = a_study(standard={"kind": "standard-lr", "model": "proxy", "lr": {**rule, "ratio": 0.5}, **changes})
    assert not any(run.asks for run in make_wave(StudyState(other, inputs_of(other), {})).todo)
