"""Sweeps over more than the learning rate: points, what is best, edges by axis, extension, rules, ladders."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystudy.report.page import render_page
from raystudy.specs.point import Point
from raystudy.specs.space import SearchSpace
from raystudy.study.comparing import compare_study
from raystudy.study.frozen import Frozen, read_plain
from raystudy.study.lr_rules import drift, newly_resolved
from raystudy.study.plan import make_plan
from raystudy.study.preregistration import differences, registered_content
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyState
from raystudy.study.sweep import Sweep
from raystudy.study.waves import make_wave
from tests.planted import RECIPES, inputs_of, planted_state, study_spec
from tests.study.test_extension import completed

LR = {"grid": [1e-3, 1e-2, 1e-1]}
GRID = {"lr": LR, "weight_decay": {"grid": [0.03, 0.1, 0.3]}, "batch_tokens": {"grid": [32, 64, 128]}}
RANDOM = {
    "random": {"points": 40, "seed": 3},
    "lr": {"log_uniform": {"low": 1e-3, "high": 1e-1}},
    "weight_decay": {"uniform": {"low": 0.0, "high": 0.4}},
    "batch_tokens": {"choice": [32, 64]},
}
TUNED = {name: 4.0 + 0.1 * index for index, name in enumerate(RECIPES)}


def space_of(space) -> SearchSpace:
    return SearchSpace.model_validate_json(json.dumps(space))


def swept_study(space=GRID, candidate=None, **changes):
    truth = {"kind": "tuned", "model": "target", "space": space}
    other = candidate or {"kind": "known", "scores": TUNED}
    given = {"protocols": {"truth": truth, "other": other}, "comparison": {"resamples": 100}, **changes}
    return study_spec(**given)


def bowl(lr=1e-2, decay=0.1, batch=64):
    """Lowest at one learning rate, weight decay and batch; the same for all recipes but for their level."""

    def loss(run):
        own = run.run.settings
        away = np.log10(run.lr / lr) ** 2 + np.log10((own.optimizer.weight_decay + 1e-9) / decay) ** 2
        away += np.log2(own.batch_sequences * 8 / batch) ** 2
        draw = np.random.default_rng(list(run.run_id.encode())).normal(0, 1e-4)
        return float(TUNED[run.recipe] + 0.1 * away + draw)

    return loss


def test_a_grid_of_several_axes_is_their_product_by_learning_rate():
    points = space_of({"lr": LR, "weight_decay": {"grid": [0.1, 0]}, "tokens": {"grid": [640, 64]}}).points()
    assert len(points) == 12
    assert points[0] == Point(1e-3, (("weight_decay", 0.0), ("tokens", 64)))
    assert points == tuple(sorted(points))
    assert points[0].name == "0.001, weight_decay 0, tokens 64"
    spaced = space_of({"lr": LR, "weight_decay": {"log_grid": {"low": 0.01, "high": 1, "points": 3}}})
    assert [point.settings["weight_decay"] for point in spaced.points()[:3]] == [0.01, 0.1, 1.0]


def test_a_point_changes_the_settings_it_names_and_no_others():
    space = {"lr": {"grid": [1e-2]}, "batch_tokens": {"grid": [128]}, "weight_decay": {"grid": [0]}}
    space |= {
        "beta1": {"grid": [0.8]},
        "beta2": {"grid": [0.99]},
        "warmup": {"grid": [0.2]},
        "tokens": {"grid": [1280]},
    }
    state = StudyState(swept_study(), inputs_of(swept_study()), {})
    base = state.want("target", "a", 1e-2, 0).run.settings
    (point,) = space_of(space).points()
    changed = state.want("target", "a", point, 0).run.settings
    assert (changed.steps, changed.batch_sequences, changed.lr) == (10, 16, 1e-2)
    assert (changed.optimizer.weight_decay, changed.optimizer.beta1, changed.optimizer.beta2) == (0.0, 0.8, 0.99)
    assert changed.schedule.warmup == 0.2
    assert (changed.optimizer.eps, changed.schedule.decay, changed.clip) == (1e-8, base.schedule.decay, base.clip)


def test_a_point_that_changes_nothing_is_the_run_at_its_bare_learning_rate():
    state = StudyState(swept_study(), inputs_of(swept_study()), {})
    bare = state.want("target", "a", 1e-2, 0)
    assert state.want("target", "a", Point(1e-2), 0) is bare
    same = state.want("target", "a", Point(1e-2, (("weight_decay", 0.1), ("batch_tokens", 64))), 0)
    assert same.run_id == bare.run_id
    assert str(bare) == "a | target | lr 0.01 | seed 0"
    assert str(same) == "a | target | lr 0.01, weight_decay 0.1, batch_tokens 64 | seed 0"


def test_random_points_are_the_same_for_all_recipes_and_more_points_keep_the_first():
    few, many = (space_of({**RANDOM, "random": {"points": n, "seed": 3}}).points() for n in (5, 40))
    assert set(few) < set(many)
    assert set(many).isdisjoint(space_of({**RANDOM, "random": {"points": 40, "seed": 4}}).points())
    lrs, decays = np.array([point.lr for point in many]), np.array([p.settings["weight_decay"] for p in many])
    assert lrs.min() >= 1e-3
    assert lrs.max() <= 1e-1
    assert 8 < (lrs < 1e-2).sum() < 32, "evenly in log"
    assert 8 < (decays < 0.2).sum() < 32
    assert {point.settings["batch_tokens"] for point in many} == {32, 64}
    # Another axis moves the values of none.
    more = space_of({**RANDOM, "beta2": {"uniform": {"low": 0.9, "high": 0.999}}}).points()
    assert {point.lr for point in more} == {point.lr for point in many}
    state = StudyState(swept_study(RANDOM), inputs_of(swept_study(RANDOM)), {})
    wanted = make_wave(state).wanted.values()
    by_recipe = {name: {(run.lr, run.changes) for run in wanted if run.recipe == name} for name in RECIPES}
    assert all(points == by_recipe["a"] for points in by_recipe.values())


def test_the_best_point_is_the_lowest_seed_mean_over_all_axes():
    state = planted_state(bowl(), swept_study())
    for row in compare_study(state)["tuned_losses"]:
        assert row["best_lr"] == 1e-2
        assert row["best_settings"] == {"batch_tokens": 64, "weight_decay": 0.1}
        assert row["edge"] is None
        assert len(row["points"]) == 27
        # The curve is the best over the other axes.
        for place in row["curve"]:
            assert place["mean"] == min(p["mean"] for p in row["points"] if p["lr"] == place["lr"])


@pytest.mark.parametrize(
    ("best", "edge"),
    [
        ({"decay": 0.001}, "weight_decay low"),
        ({"decay": 10.0, "batch": 4096}, "batch_tokens high, weight_decay high"),
        ({"lr": 1e3, "batch": 1}, "lr high, batch_tokens low"),
    ],
)
def test_edges_are_named_by_axis(best, edge):
    comparison = compare_study(planted_state(bowl(**best), swept_study()))
    assert {row["edge"] for row in comparison["tuned_losses"]} == {edge}
    assert comparison["truth_guards"]["edge"] == list(RECIPES)


def test_what_has_nothing_beyond_is_no_edge():
    losses, points = np.array([[3.0], [2.0]]), (Point(1e-2), Point(1e-1))

    def edges(axis, values, best):
        lrs = {"grid": [1e-3, 1e-2, 1e-1]}
        space = space_of({"lr": lrs, axis: {"grid": values}})
        means = [[0.0 if (p.lr, p.settings[axis]) == (1e-2, best) else 1.0] for p in space.points()]
        return Sweep(space.points(), np.array(means), is_terminal=True, space=space).edges

    assert edges("weight_decay", [0, 0.1], 0) == {}
    assert edges("weight_decay", [0, 0.1], 0.1) == {"weight_decay": "high"}
    assert edges("warmup", [0, 0.1, 1], 1) == {}
    assert edges("tokens", [64, 128, 256], 256) == {}, "the largest budget is nearly always the best"
    assert edges("tokens", [64, 128, 256], 64) == {"tokens": "low"}
    assert edges("beta2", [0.95], 0.95) == {}, "one value is not swept"
    assert Sweep(points, losses, is_terminal=True).edges == {"lr": "high"}


def test_the_best_of_random_points_in_the_outer_tenth_of_a_range_is_flagged_and_the_sweep_does_not_go_on():
    study = swept_study(RANDOM)
    inside = compare_study(planted_state(bowl(decay=0.2), study))
    points = inside["tuned_losses"][0]["points"]
    assert len(points) == 40
    assert inside["tuned_losses"][0]["is_random"]
    high = planted_state(lambda run: bowl(lr=1e3, decay=0.2)(run), study)
    rows = compare_study(high)["tuned_losses"]
    assert all("lr high" in row["edge"] for row in rows)
    assert rows[0]["best_lr"] > 10 ** (-1 - 0.2)
    assert len(make_wave(high).wanted) == 40 * len(RECIPES)
    # The lowest weight decay is none at all: nothing lies beyond.
    low = compare_study(planted_state(bowl(decay=1e-8), study))["tuned_losses"]
    assert all("weight_decay" not in (row["edge"] or "") for row in low)


def test_a_grid_goes_on_along_the_learning_rate_at_all_values_of_the_others_within_what_the_plan_says():
    study = swept_study({**GRID, "batch_tokens": {"grid": [64, 128]}})
    empty = StudyState(study, inputs_of(study), {})
    plan = make_plan(empty, slots=1)
    assert plan.total.wanted == 18 * len(RECIPES)
    assert plan.extension.runs == 4 * 6 * len(RECIPES)
    state = planted_state(bowl(lr=1.0), study)
    assert protocols_of(study)["truth"].lrs(state) == (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    assert len(make_wave(state).wanted) == 30 * len(RECIPES)
    only_decay = planted_state(bowl(decay=10.0), study)
    assert protocols_of(study)["truth"].lrs(only_decay) == (1e-3, 1e-2, 1e-1), "other axes do not go on"


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_any_order_of_completion_wants_the_same_points(draw):
    """Losses at random (a tenth diverge), runs completed one at a time in a random order, and all at once."""
    some = [recipe.model_dump(mode="json") for recipe in study_spec().recipes][:2]
    known = {"kind": "known", "scores": {"a": 1.0, "b": 2.0}}
    study = swept_study({"lr": {"grid": [1e-3, 1e-2]}, "weight_decay": {"grid": [0, 0.1]}}, known, recipes=some)

    def loss(run):
        value = np.random.default_rng([draw, *run.run_id.encode()]).uniform()
        return float("inf") if value < 0.1 else 4.0 + value

    generator = np.random.default_rng(draw)
    wanted, _ = completed(study, loss, lambda todo: todo[generator.integers(len(todo))])
    assert wanted == set(planted_state(loss, study).records)
    assert len(wanted) in {2 * 2 * rates for rates in range(2, 7)}


def test_a_plan_counts_the_tokens_of_every_budget_that_is_swept():
    study = swept_study({"lr": {"grid": [1e-2, 1e-1]}, "tokens": {"grid": [640, 1280, 6400]}})
    plan = make_plan(StudyState(study, inputs_of(study), {}), slots=1)
    one_rate = (640 + 1280 + 6400) * len(RECIPES)
    assert plan.total.tokens == 2 * one_rate
    assert plan.extension.tokens == 4 * one_rate
    conventions = compare_study(planted_state(lambda run: TUNED[run.recipe], study))["conventions"]
    assert "lowest over budgets" in conventions["tuned"]


def rule_study(with_settings):
    rule = {"ratio": 0.5, "baseline": "a", "space": GRID, "with_settings": with_settings}
    return swept_study({"lr": LR}, {"kind": "standard-lr", "model": "proxy", "lr": rule})


def test_a_rule_takes_the_learning_rate_of_the_best_point_and_its_other_settings_only_where_asked():
    loss = bowl(decay=0.3, batch=128)
    for with_settings, changes in ((False, ()), (True, (("batch_tokens", 128), ("weight_decay", 0.3)))):
        state = planted_state(loss, rule_study(with_settings))
        (scored,) = protocols_of(state.study)["other"].scored(state)
        assert (scored.lr, scored.changes) == (5e-3, changes)
        (run,) = scored.runs["b"]
        assert run.run.settings.batch_sequences == (16 if with_settings else 8)
        assert ("other settings" in scored.lr_rule) is with_settings


def test_a_frozen_rule_keeps_its_settings_and_drift_tells_where_they_would_be_others():
    state = planted_state(bowl(decay=0.3, batch=128), rule_study(with_settings=True))
    rules = newly_resolved(state)
    read = read_plain(json.loads(json.dumps(Frozen(rules=rules).as_plain()))).rules
    assert read == rules
    study, inputs = state.study, state.inputs
    other = planted_state(bowl(decay=0.1, batch=128), study)
    frozen = StudyState(study, inputs, other.records, read)
    (line,) = drift(frozen)
    assert "frozen at 0.005, batch_tokens 128, weight_decay 0.3; resolved anew" in line
    assert "would be 0.005, batch_tokens 128, weight_decay 0.1" in line
    old = json.loads(json.dumps(Frozen(rules=rules).as_plain()))
    for rule in old["rules"].values():
        del rule["changes"]
    assert {rule.changes for rule in read_plain(old).rules.values()} == {()}, "frozen by an earlier version"


def test_a_lock_made_before_there_were_other_axes_is_still_kept():
    study = study_spec()
    now = registered_content(study)
    written = {name: spec.model_dump(mode="json") for name, spec in study.protocols.items()}  # defaults and all
    spaces = [written["truth"]["space"], written["ladder"]["space"]]
    for space in spaces:
        for axis in ("batch_tokens", "weight_decay", "beta1", "beta2", "warmup", "tokens", "random"):
            del space[axis]
    del written["reduced"]["lr"]["with_settings"]
    before = {**now, "truth": {"truth": written.pop("truth")}, "candidates": written}
    assert differences(before, now) == []
    spaces[0]["lr"]["grid"] = [1e-3]
    assert differences(before, now) == ["truth"]


def test_a_ladder_over_several_values_of_another_axis_is_refused_and_over_one_is_named_by_its_rates():
    one = {"lr": LR, "weight_decay": {"grid": [0.3]}}
    ladder = {"kind": "lr-ladder", "model": "proxy", "space": one}
    state = planted_state(lambda run: TUNED[run.recipe], swept_study({"lr": LR}, ladder))
    rungs = protocols_of(state.study)["other"].scored(state)
    assert [rung.name for rung in rungs] == ["other@0.001", "other@0.01", "other@0.1"]
    assert {rung.changes for rung in rungs} == {(("weight_decay", 0.3),)}
    assert compare_study(state)["comparisons"][0]["settings"] == {"weight_decay": 0.3}
    with pytest.raises(ValueError, match="several values of weight_decay; give each value a ladder of its own"):
        swept_study({"lr": LR}, {**ladder, "space": {**one, "weight_decay": {"grid": [0.1, 0.3]}}})


@pytest.mark.parametrize("space", [GRID, RANDOM], ids=["grid", "random"])
def test_the_page_shows_the_best_point(space):
    loss = bowl(lr=1e3)
    comparison = compare_study(planted_state(loss, swept_study(space)))
    page = render_page(comparison, {})
    for axis, value in comparison["tuned_losses"][0]["best_settings"].items():
        assert f"{axis} {value:g}" in page
    assert "lr high" in page
    assert ("Large dots: mean over seeds" in page) is (space is RANDOM)
    assert ("best over the other settings" in page) is (space is GRID)
    assert "at the point that is best on average" in page
