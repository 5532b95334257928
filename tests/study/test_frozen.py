"""Learning-rate rules: in words, on average, carried over; and frozen by what they rest on, never by a name."""

import dataclasses
import json

import pytest
from pydantic import ValidationError

from raystudy.errors import StorageError
from raystudy.study.frozen import Frozen, FrozenData, read_plain
from raystudy.study.lr_rules import describe_rule, drift, newly_resolved, rules_of, without_rules_of
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.waves import make_wave
from tests.planted import RECIPES, SPACE, curved_loss, inputs_of, planted_state, record_of, study_spec

TUNED = dict.fromkeys(RECIPES, 4.0)
LOSS = curved_loss(TUNED, dict.fromkeys(RECIPES, 1e-2))
GRIDS = {"fine": {"lr": {"grid": [1e-3, 3e-3, 1e-2, 1e-1]}}}


def rule_study(rule, name="mine", **changes):
    protocol = {"kind": "standard-lr", "model": "proxy", "lr": rule, "seeds": [0, 1]}
    known = {"kind": "known", "scores": TUNED}
    return study_spec(protocols={"known": known, name: protocol}, truth="known", comparison={}, **changes)


BASELINE = {"ratio": 0.1, "baseline": "a", "space": SPACE}
AVERAGE = {"ratio": 1, "best_on_average": True, "space": SPACE}


def lr_of(state, name="mine"):
    return protocols_of(state.study)[name].scored(state)[0].lr


@pytest.mark.parametrize(
    "rule",
    [
        {**BASELINE, "best_on_average": True},
        {"ratio": 1, "space": SPACE},
        {"ratio": 1, "space": SPACE, "best_on_average": False},
        {"absolute": 1e-3, "model": "proxy"},
        {"absolute": 1e-3, "best_on_average": True},
    ],
)
def test_a_rule_has_exactly_one_of_baseline_and_best_on_average(rule):
    with pytest.raises(ValidationError, match=r"baseline|absolute"):
        rule_study(rule)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (AVERAGE, "the LR best on average over recipes"),
        ({**BASELINE, "model": "target"}, "0.1 x the LR tuned on 'a' with model 'target'"),
    ],
)
def test_a_rule_is_told_in_words(rule, words):
    assert describe_rule(rule_study(rule).protocols["mine"].lr) == words


def test_best_on_average_is_the_lowest_mean_where_all_recipes_are_finite():
    best = {**dict.fromkeys(RECIPES, 1e-2), "a": 1e-3, "b": 1e-3}
    state = planted_state(curved_loss(TUNED, best), rule_study(AVERAGE))
    assert lr_of(state) == 1e-2
    scored = protocols_of(state.study)["mine"].scored(state)[0]
    assert len(scored.all_runs) == 4 * len(RECIPES) * 2, "its sweep of all recipes is in its cost"

    def diverging(run):
        return float("inf") if run.recipe == "c" and run.lr >= 1e-2 else curved_loss(TUNED, best)(run)

    assert lr_of(planted_state(diverging, rule_study(AVERAGE))) == 1e-3


def test_controls_have_no_say_in_the_average():
    recipes = [{**recipe.model_dump(mode="json"), "control": recipe.name != "a"} for recipe in study_spec().recipes]
    recipes[1]["control"] = False
    best = {**dict.fromkeys(RECIPES, 1e-1), "a": 1e-2, "b": 1e-2}
    state = planted_state(curved_loss(TUNED, best), rule_study(AVERAGE, recipes=recipes))
    assert lr_of(state) == 1e-2


def test_a_rate_carried_over_comes_from_the_other_models_sweep():
    def loss(run):
        return curved_loss(TUNED, dict.fromkeys(RECIPES, 1e-1 if run.model == "target" else 1e-2))(run)

    study = rule_study({**BASELINE, "model": "target", "ratio": 1, "space": {"lr": {"grid": [1e-2, 1e-1, 1]}}})
    state = planted_state(loss, study)
    assert lr_of(state) == 1e-1
    models = [run.model for run in protocols_of(study)["mine"].scored(state)[0].all_runs]
    assert (models.count("target"), models.count("proxy")) == (6, 16)


def test_a_rule_on_the_edge_of_an_average_flags_all_recipes():
    rule = {**AVERAGE, "space": {"lr": {"grid": [1e-3, 1e-2], "extend": 0}}}
    state = planted_state(curved_loss(TUNED, dict.fromkeys(RECIPES, 1.0)), rule_study(rule))
    assert protocols_of(state.study)["mine"].scored(state)[0].edges == dict.fromkeys(RECIPES, "high")


def frozen_state(rule, loss=LOSS, **changes):
    """A state whose rule has been resolved and frozen."""
    state = planted_state(loss, rule_study(rule, **changes))
    return dataclasses.replace(state, frozen=newly_resolved(state))


def again(before, study, loss=LOSS, inputs=None):
    """The same records and more, under what was frozen: all waves of the edited study."""
    inputs, records = inputs or inputs_of(study), dict(before.records)
    while todo := make_wave(state := StudyState(study, inputs, records, before.frozen)).todo:
        records |= {run.run_id: record_of(run, loss(run), inputs) for run in todo}
    return state


NEARER = curved_loss(TUNED, dict.fromkeys(RECIPES, 4e-3))


def test_a_rule_that_has_grown_keeps_its_rate_and_tells_what_it_would_be():
    before = frozen_state(BASELINE, NEARER)
    assert lr_of(before) == 1e-3
    finer = rule_study({**BASELINE, "space": GRIDS["fine"]})
    after = again(before, finer, NEARER)
    assert lr_of(after) == 1e-3
    assert drift(after) == [
        "mine: the LR is frozen at 0.001; resolved anew it would be 0.0003 (`raystudy run --resolve-again` changes it)"
    ]
    anew = dataclasses.replace(after, frozen=without_rules_of(after))
    assert anew.frozen == {}
    assert lr_of(anew) == 3e-4


def test_a_new_recipe_and_a_new_seed_move_no_frozen_average():
    some = [r.model_dump(mode="json") for r in study_spec().recipes if r.name in "bcd"]  # a comes before them
    best = {**dict.fromkeys(RECIPES, 1e-1), "b": 1e-2, "c": 1e-2, "d": 1e-2}
    loss = curved_loss(TUNED, best)
    before = frozen_state(AVERAGE, loss, recipes=some)
    after = again(before, rule_study({**AVERAGE, "seeds": [0, 1, 2]}), loss)
    assert lr_of(before) == lr_of(after) == 1e-2
    assert "frozen at 0.01; resolved anew it would be 0.1" in drift(after)[0]


def test_a_rule_is_known_by_what_it_rests_on_not_by_names():
    before = frozen_state(BASELINE)
    renamed = [{**r.model_dump(mode="json"), "name": r.name.upper()} for r in study_spec().recipes]
    study = rule_study({**BASELINE, "baseline": "A"}, name="other", recipes=renamed)
    study = study.model_copy(
        update={"protocols": {**study.protocols, "known": study.protocols["known"].model_copy(update={"scores": {}})}}
    )
    inputs = inputs_of(study_spec())
    capitals = StudyInputs({name.upper(): shards for name, shards in inputs.shards.items()}, inputs.validation, 32)
    state = StudyState(study, capitals, before.records, before.frozen)
    assert rules_of(state)["other"].is_frozen
    assert rules_of(state)["other"].lr == 1e-3


@pytest.mark.parametrize(
    "edit",
    [{"ratio": 0.5}, {"baseline": "b"}, {"model": "target"}, {"space": {"lr": {"grid": [1e-3, 1e-2]}}}],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edited_rule_is_a_new_rule(edit):
    before = frozen_state(BASELINE)
    study = rule_study({**BASELINE, **edit})
    assert not rules_of(StudyState(study, inputs_of(study), before.records, before.frozen))["mine"].is_frozen


def test_other_training_settings_or_other_shards_make_a_new_rule():
    before = frozen_state(BASELINE)
    longer = rule_study(BASELINE, training={"steps": 11, "batch_tokens": 64})
    assert not rules_of(StudyState(longer, inputs_of(longer), {}, before.frozen))["mine"].is_frozen
    other = StudyInputs({**before.inputs.shards, "a": "other"}, before.inputs.validation, 32)
    assert not rules_of(StudyState(before.study, other, {}, before.frozen))["mine"].is_frozen
    assert rules_of(StudyState(before.study, before.inputs, {}, before.frozen))["mine"].is_frozen


def test_a_rule_on_a_tasks_metric_rests_on_its_items_and_one_on_losses_on_no_task():
    task = {"kind": "continuation", "validation": "p", "items": 10}
    bases = {}
    for metric in ("loss", "task/quiz/probability"):
        study = rule_study(BASELINE, tasks={"quiz": task, "more": task})
        study = study.model_copy(update={"comparison": study.comparison.model_copy(update={"primary_metric": metric})})
        for quiz, more in (("x", "z"), ("y", "z"), ("x", "w")):
            inputs = dataclasses.replace(inputs_of(study), tasks={"quiz": quiz, "more": more})
            bases[metric, quiz, more] = rules_of(StudyState(study, inputs, {}))["mine"].basis.digest
    on_loss, on_x, on_y, other_task = (
        {bases["loss", *items] for items in (("x", "z"), ("y", "z"), ("x", "w"))},
        *(bases["task/quiz/probability", *items] for items in (("x", "z"), ("y", "z"), ("x", "w"))),
    )
    assert on_x != on_y
    assert on_x == other_task
    assert on_loss == {"85c9a128f7c23feb39b38815aee590b7"}, "as before there were tasks"


def test_what_is_frozen_reads_back_the_same_and_anything_else_is_told():
    before = Frozen(frozen_state(BASELINE).frozen, {"k": FrozenData("shards", 32, "recipe 'a'")})
    assert read_plain(json.loads(json.dumps(before.as_plain()))) == before
    assert read_plain(None) == Frozen()
    for wrong in ([], {"format": "other"}, {**before.as_plain(), "rules": {"x": {"lr": 1}}}):
        with pytest.raises(StorageError, match="it is foreign"):
            read_plain(wrong)
