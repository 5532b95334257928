"""Grid extension: beyond an edge, for all recipes alike, bounded, whatever the order of completion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystudy.specs.space import LearningRateAxis
from raystudy.study.comparing import compare_study
from raystudy.study.plan import make_plan
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave, waiting_lines
from tests.planted import RECIPES, curved_loss, inputs_of, planted_state, record_of, study_spec

INSIDE = dict.fromkeys(RECIPES, 1e-2)
TUNED = {name: 4.0 + 0.1 * index for index, name in enumerate(RECIPES)}


def tuned_study(space=None, seeds=(0,), **changes):
    """A tuned truth over `space` beside scores that are known."""
    axis = space or {"grid": [1e-3, 1e-2, 1e-1]}
    truth = {"kind": "tuned", "model": "target", "space": {"lr": axis}, "seeds": list(seeds)}
    known = {"kind": "known", "scores": TUNED}
    return study_spec(protocols={"truth": truth, "known": known}, comparison={"resamples": 100}, **changes)


def lrs_of(state):
    return protocols_of(state.study)["truth"].lrs(state)


def test_one_recipe_on_an_edge_extends_the_grid_of_all_recipes():
    state = planted_state(curved_loss(TUNED, {**INSIDE, "c": 1e-1}), tuned_study())
    assert lrs_of(state) == (1e-3, 1e-2, 1e-1, 1.0)
    assert len(make_wave(state).wanted) == 4 * len(RECIPES)
    assert all(row["edge"] is None for row in compare_study(state)["tuned_losses"])


def test_a_study_without_edges_wants_no_other_runs_and_gives_the_same_comparison():
    loss = curved_loss(TUNED, INSIDE)
    off = tuned_study({"grid": [1e-3, 1e-2, 1e-1], "extend": 0})
    assert compare_study(planted_state(loss, off)) == compare_study(planted_state(loss, tuned_study()))


@pytest.mark.parametrize(("extend", "grid"), [(0, 3), (1, 4), (2, 5)])
def test_what_stays_on_an_edge_after_the_last_step_is_flagged(extend, grid):
    axis = {"grid": [1e-3, 1e-2, 1e-1], "extend": extend}
    state = planted_state(curved_loss(TUNED, {**INSIDE, "c": 1e-9}), tuned_study(axis))
    assert len(lrs_of(state)) == grid
    edges = {row["recipe"]: row["edge"] for row in compare_study(state)["tuned_losses"]}
    assert {recipe for recipe, edge in edges.items() if edge == "low"} == {"c"}
    assert compare_study(state)["truth_guards"]["edge"] == ["c"]


def test_both_sides_go_on_where_recipes_differ():
    state = planted_state(curved_loss(TUNED, {**INSIDE, "c": 1e-9, "d": 1e9}), tuned_study())
    assert lrs_of(state) == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def test_a_best_point_beside_a_diverged_one_is_no_edge():
    def loss(run):
        return float("inf") if run.lr > 5e-2 else curved_loss(TUNED, {**INSIDE, "c": 1e-1})(run)

    assert lrs_of(planted_state(loss, tuned_study())) == (1e-3, 1e-2, 1e-1)
    # An added point may diverge too: then the edge it was added for is none any more.
    high = curved_loss(TUNED, {**INSIDE, "c": 1e-1})
    state = planted_state(lambda run: float("inf") if run.lr > 0.5 else high(run), tuned_study())
    assert lrs_of(state) == (1e-3, 1e-2, 1e-1, 1.0)
    assert all(row["edge"] is None for row in compare_study(state)["tuned_losses"])


def test_the_next_point_follows_the_grids_own_ratio_at_two_digits():
    listed = LearningRateAxis.model_validate_json('{"grid": [0.001, 0.002, 0.006]}')
    assert (listed.next_value("low", 1e-3), listed.next_value("high", 6e-3)) == (5e-4, 1.8e-2)
    spaced = LearningRateAxis.model_validate_json('{"log_grid": {"low": 0.0003, "high": 0.03, "points": 5}}')
    assert (spaced.next_value("high", 3e-2), spaced.next_value("low", 3e-4)) == (9.5e-2, 9.5e-5)
    assert LearningRateAxis.model_validate_json('{"grid": [0.001]}').next_value("high", 1e-3) is None
    close = LearningRateAxis.model_validate_json('{"grid": [0.001, 0.001001]}')
    assert close.next_value("high", 1.001e-3) is None, "two digits leave nothing beyond the edge"


def test_a_point_without_a_result_keeps_the_extension_back_and_is_listed_as_waiting():
    study = tuned_study()
    state = planted_state(curved_loss(TUNED, {**INSIDE, "c": 1e-1}), study)
    first = {run.run_id for run in make_wave(StudyState(study, inputs_of(study), {})).todo}
    for lost in list(first)[::7]:
        records = {run_id: record for run_id, record in state.records.items() if run_id in first - {lost}}
        wave = make_wave(StudyState(study, state.inputs, records))
        assert [run.run_id for run in wave.todo] == [lost]
        assert "whether its sweep must go on beyond the grid's edge" in waiting_lines(wave)[0]


def test_a_baselines_sweep_goes_on_too_and_a_ladder_does_not():
    state = planted_state(curved_loss(TUNED, {**INSIDE, "a": 1.0}))
    protocols = protocols_of(state.study)
    assert protocols["standard"].scored(state)[0].lr == 1.0
    assert protocols["reduced"].scored(state)[0].edges == {}
    assert [rung.lr for rung in protocols["ladder"].scored(state)] == [1e-3, 1e-2, 1e-1]


def test_a_plan_tells_the_worst_case_apart_from_what_is_wanted():
    study = study_spec()
    plan = make_plan(StudyState(study, inputs_of(study), {}), slots=2)
    # The truth: 8 recipes x 3 seeds x 2 points on 2 sides; the baseline sweep, which both rules share: 3 x 2.
    assert plan.extension.runs == 96 + 6
    assert plan.total.wanted == 192
    assert make_plan(planted_state(curved_loss(TUNED, INSIDE)), slots=2).extension.runs == 0
    assert plan.as_dict()["extension"]["flops"] > 0


SMALL = ("a", "b", "c")


def small_study(extend=2, lrs=(1e-3, 1e-2, 1e-1)):
    recipes = [r.model_dump(mode="json") for r in study_spec().recipes if r.name in SMALL]
    known = {"kind": "known", "scores": {name: TUNED[name] for name in SMALL}}
    space = {"lr": {"grid": list(lrs), "extend": extend}}
    protocols = {
        "truth": {"kind": "tuned", "model": "target", "space": space},
        "standard": {"kind": "standard-lr", "model": "proxy", "lr": {"ratio": 0.5, "baseline": "a", "space": space}},
        "average": {
            "kind": "standard-lr",
            "model": "proxy",
            "lr": {"ratio": 1, "best_on_average": True, "space": space},
        },
        "known": known,
    }
    return study_spec(recipes=recipes, protocols=protocols, comparison={})


def completed(study, loss, order):
    """All waves, each completed run by run in `order`; the runs that were ever wanted, and the last state."""
    inputs, records, wanted = inputs_of(study), {}, set()
    while todo := make_wave(StudyState(study, inputs, records)).todo:
        run = order(todo)
        wanted.add(run.run_id)
        records[run.run_id] = record_of(run, loss(run), inputs)
    return wanted, StudyState(study, inputs, records)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_any_order_of_completion_wants_the_same_runs_within_the_bounds(draw, extend):
    """Losses at random (a tenth diverge), runs completed one at a time in a random order, and all at once."""
    study, space = small_study(extend), 3

    def loss(run):
        value = np.random.default_rng([draw, *run.run_id.encode()]).uniform()
        return float("inf") if value < 0.1 else 4.0 + value

    generator = np.random.default_rng(draw)
    wanted, last = completed(study, loss, lambda todo: todo[generator.integers(len(todo))])
    at_once = planted_state(loss, study)
    assert wanted == set(at_once.records)
    assert [run.run_id for run in make_wave(last).wanted.values()] == list(make_wave(at_once).wanted)
    assert space <= len(lrs_of(at_once)) <= space + 2 * extend
    assert lrs_of(at_once) == tuple(sorted(set(lrs_of(at_once))))
    first = StudyState(study, inputs_of(study), {})
    sweeps = {run.run_id for run in make_wave(first).wanted.values()}
    most = sum(item.num_runs for _, item in make_wave(first).extensions)
    waiting = sum(item.num_runs for _, item in make_wave(first).waiting)
    assert len(wanted) <= len(sweeps) + most + waiting
