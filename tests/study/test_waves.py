"""Waves: pure, in the right order, independent of the order of completion."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from raystudy.specs.point import Point
from raystudy.specs.run import read_run
from raystudy.study.lr_rules import describe_rule
from raystudy.study.plan import make_plan
from raystudy.study.protocols.registry import PROTOCOL_KINDS, protocols_of
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.sweep import Sweep
from raystudy.study.waves import make_wave
from tests.planted import RECIPES, curved_loss, inputs_of, planted_state, record_of, study_spec, synthetic_spec

TUNED = dict.fromkeys(RECIPES, 4.0)
BEST = dict.fromkeys(RECIPES, 1e-2)
LOSS = curved_loss(TUNED, BEST)


def test_the_first_wave_wants_sweeps_and_ladder_and_lets_ratio_rules_wait():
    study = study_spec()
    wave = make_wave(StudyState(study, inputs_of(study), {}))
    # truth: 8 recipes x 3 LRs x 3 seeds; the ladder the same with the proxy; baseline sweeps are in the ladder
    assert len(wave.todo) == 72 + 72
    assert [name for name, _ in wave.waiting] == ["standard", "reduced"]
    assert wave.todo[0].model == "target"
    assert wave.todo[-1].model == "proxy"


def test_a_ratio_rule_is_resolved_when_the_baseline_sweep_has_ended_at_two_digits():
    state = planted_state(LOSS)
    protocols = protocols_of(state.study)
    assert protocols["standard"].scored(state)[0].lr == 1e-2
    assert protocols["reduced"].scored(state)[0].lr == 1e-3
    assert not make_wave(state).waiting


def test_the_next_wave_does_not_depend_on_the_order_of_completion():
    study = study_spec()
    inputs = inputs_of(study)
    empty = StudyState(study, inputs, {})
    baseline = [run for run in make_wave(empty).todo if run.model == "proxy" and run.recipe == "a"]
    for done in itertools.combinations(baseline, len(baseline) - 1):
        records = {run.run_id: record_of(run, LOSS(run), inputs) for run in done}
        assert len(make_wave(StudyState(study, inputs, records)).waiting) == 2
    records = {run.run_id: record_of(run, LOSS(run), inputs) for run in baseline}
    forward = make_wave(StudyState(study, inputs, records))
    backward = make_wave(StudyState(study, inputs, dict(reversed(records.items()))))
    assert not forward.waiting
    assert [run.run_id for run in forward.todo] == [run.run_id for run in backward.todo]


def test_runs_that_protocols_share_are_made_once():
    wave = make_wave(planted_state(LOSS))
    # standard and reduced fall on the ladder's rungs 1e-2 and 1e-3
    assert len(wave.wanted) == 72 + 72
    assert not wave.todo


def test_renaming_recipes_and_study_wants_no_new_run():
    study = study_spec(protocols={"truth": KINDS["tuned"], "low": KINDS["reduced-lr"]}, comparison={})
    recipes = tuple(recipe.model_copy(update={"name": recipe.name.upper()}) for recipe in study.recipes)
    renamed = study.model_copy(update={"name": "other", "recipes": recipes})
    inputs = inputs_of(study)
    capitals = StudyInputs({name.upper(): digest for name, digest in inputs.shards.items()}, inputs.validation, 32)
    before, after = make_wave(StudyState(study, inputs, {})), make_wave(StudyState(renamed, capitals, {}))
    assert [run.run_id for run in before.todo] == [run.run_id for run in after.todo]
    assert after.todo[0].recipe == before.todo[0].recipe.upper()


def test_a_diverged_point_is_skipped_in_a_sweep_and_is_no_edge():
    losses = np.array([[4.0, 4.1], [3.0, 3.1], [np.inf, 3.0]])
    points = tuple(Point(lr) for lr in (1e-3, 1e-2, 1e-1))
    sweep = Sweep(points, losses, is_terminal=True)
    assert sweep.best_lr == 1e-2
    assert sweep.edge is None
    assert sweep.diverged_lrs == (1e-1,)
    assert Sweep(points[:2], losses[:2], is_terminal=True).edge == "high"
    assert Sweep(points[:2], losses[1::-1], is_terminal=True).edge == "low"
    assert Sweep(points[:1], np.array([[np.inf]]), is_terminal=True).best is None


def test_a_ladder_names_its_candidates_by_their_learning_rate():
    state = planted_state(LOSS)
    rungs = protocols_of(state.study)["ladder"].scored(state)
    assert [rung.name for rung in rungs] == ["ladder@0.001", "ladder@0.01", "ladder@0.1"]
    assert {rung.ladder for rung in rungs} == {"ladder"}


def test_a_run_without_an_evaluation_on_a_new_validation_set_is_wanted_again():
    study = study_spec()
    old = planted_state(LOSS, study)
    inputs = inputs_of(study)
    more = StudyState(
        study, type(inputs)(inputs.shards, {**inputs.validation, "new": "validation-new"}, 32), old.records
    )
    assert len(make_wave(more).todo) > 0


KINDS = {
    "tuned": {"kind": "tuned", "model": "proxy", "space": {"lr": {"grid": [1e-3, 1e-2]}}, "seeds": [0, 1, 2]},
    "reduced-lr": {"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "seeds": [0, 1, 2]},
    "standard-lr": {"kind": "standard-lr", "model": "proxy", "lr": 1e-2, "seeds": [0, 1, 2]},
    "lr-ladder": {"kind": "lr-ladder", "model": "proxy", "space": {"lr": {"grid": [1e-3, 1e-2]}}, "seeds": [0, 1, 2]},
    "gradient-alignment": {"kind": "gradient-alignment", "model": "proxy"},
    "sharpness": {"kind": "sharpness", "model": "proxy", "seeds": [0, 1]},
    "likeness": {"kind": "likeness", "order": 2},
    "known": {"kind": "known", "scores": {name: float(i) for i, name in enumerate(RECIPES)}},
    "table": {"kind": "table", "file": "{table}"},
}


FAMILIES = {"decoder": study_spec, "random-features": synthetic_spec}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", sorted(PROTOCOL_KINDS))
def test_every_kind_of_protocol_keeps_the_contract(kind, family, tmp_path):
    if kind in ("sharpness", "likeness") and family == "random-features":
        return  # refused by the study's check
    table = tmp_path / "scores.csv"
    table.write_text(
        "recipe,seed,score\n" + "".join(f"{n},{s},{i + s / 9}\n" for i, n in enumerate(RECIPES) for s in (0, 1))
    )
    spec = {key: str(table) if value == "{table}" else value for key, value in KINDS[kind].items()}
    truth = {"kind": "tuned", "model": "target", "space": {"lr": {"grid": [1e-2]}}}
    study = FAMILIES[family](protocols={"truth": truth, "mine": spec}, comparison={})
    empty = StudyState(study, inputs_of(study), {})
    assert protocols_of(study)["mine"].demand(empty) == protocols_of(study)["mine"].demand(empty)
    state = planted_state(LOSS, study)
    protocol = protocols_of(study)["mine"]
    wanted = {run.run_id for run in protocol.demand(state).runs}
    for scored in protocol.scored(state):
        assert scored.kind == kind
        assert scored.scores["loss"].recipes == RECIPES
        assert np.isfinite(scored.scores["loss"].values).all()
        assert {run.run_id for runs in scored.runs.values() for run in runs} <= wanted
        assert {run.run_id for run in scored.all_runs} <= wanted


def test_a_plan_counts_wanted_done_missing_and_waiting():
    study = study_spec()
    empty = make_plan(StudyState(study, inputs_of(study), {}), slots=2)
    assert (empty.total.wanted, empty.total.done, empty.total.missing, empty.total.waiting) == (192, 0, 144, 48)
    assert not empty.is_measured
    full = make_plan(planted_state(LOSS), slots=2)
    assert (full.total.wanted, full.total.done, full.total.seconds_left) == (144, 144, 0.0)
    assert full.is_measured
    by_name = {row.protocol: row for row in full.rows}
    assert by_name["standard"].wanted == 24 + 9 - 3  # recipes x seeds, and the baseline's sweep, which shares one rung


def grouped_study(workers: int, gpus: int = 0):
    """The planted study whose truth groups of workers train."""
    engine = {"kind": "deepspeed", "workers": workers, "gpus_per_worker": gpus}
    models = {name: model.model_dump(mode="json") for name, model in study_spec().models.items()}
    return study_spec(models={**models, "target": {**models["target"], "engine": engine}})


def seconds_by_row(study, slots: int, num_gpus: int = 0, records=None):
    plan = make_plan(StudyState(study, inputs_of(study), records or {}), slots, num_gpus)
    return {row.protocol: row.seconds_left for row in [*plan.rows, plan.total]}, plan


def test_a_plan_counts_a_groups_workers_as_places_and_as_many_groups_at_once_as_fit():
    alone, _ = seconds_by_row(study_spec(), slots=4)
    for workers, slots, at_once in ((2, 4, 2), (2, 5, 2), (4, 4, 1), (8, 4, 1)):
        seconds, plan = seconds_by_row(grouped_study(workers), slots)
        assert [speed.at_once for speed in plan.groups] == [at_once]
        assert seconds["truth"] == pytest.approx(alone["truth"] * 4 / (at_once * workers)), "assumed: workers cores"
        assert seconds["ladder"] == pytest.approx(alone["ladder"] * 4 / slots)
    assert seconds_by_row(grouped_study(2, gpus=1), slots=32, num_gpus=8)[1].groups[0].at_once == 4
    assert seconds_by_row(grouped_study(2, gpus=1), slots=32)[1].groups[0].at_once == 1, "no GPU is seen here"


def test_a_plan_measures_the_speed_of_groups_apart_from_that_of_one_process():
    study = grouped_study(workers=2)
    state = planted_state(LOSS, study)
    slow = {"seconds": {"total": 200.0}, "provenance": {"workers": 2}}
    in_groups = {run.run_id for run in make_wave(state).wanted.values() if run.model == "target"}
    records = {k: replace(r, result={**r.result, **slow}) if k in in_groups else r for k, r in state.records.items()}
    missing = sorted(in_groups)[::2]
    seconds, plan = seconds_by_row(study, 4, records={k: r for k, r in records.items() if k not in missing})
    assert seconds["truth"] == seconds["total"] == pytest.approx(len(missing) * 200.0 / 2), "two of two on four places"
    assert plan.groups[0].is_measured
    by_one = [run for run in make_wave(state).wanted.values() if run.run_id not in in_groups]
    assert plan.flops_per_second == pytest.approx(sum(run.flops for run in by_one) / (2.0 * len(by_one)))


def test_the_rule_behind_a_learning_rate_is_told_in_words():
    study = study_spec()
    assert describe_rule(study.protocols["reduced"].lr) == "0.1 x the LR tuned on 'a'"
    assert describe_rule(study.protocols["standard"].lr) == "the LR tuned on 'a'"


def test_a_rule_that_rests_on_the_edge_of_its_baselines_grid_is_flagged():
    state = planted_state(curved_loss(TUNED, dict.fromkeys(RECIPES, 1e3)))
    assert protocols_of(state.study)["standard"].scored(state)[0].edges == {"a": "high"}
    assert protocols_of(planted_state(LOSS).study)["standard"].scored(planted_state(LOSS))[0].edges == {}


@pytest.mark.parametrize("study", [study_spec(), synthetic_spec()], ids=["decoder", "random-features"])
def test_a_run_is_what_its_spec_reads_as_and_new_records_do_not_name_it_anew(study):
    state = planted_state(LOSS, study)
    for wanted in make_wave(state).wanted.values():
        read = read_run(wanted.run.model_dump_json())
        assert read == wanted.run
        assert read.run_id == wanted.run_id
    asked = ("proxy", "a", 1e-2, 1)
    assert state.with_records({}).want(*asked) is state.want(*asked)
