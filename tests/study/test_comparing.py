"""A study's comparison: the verdict follows from planted records, guards and costs are told, laws hold."""

import json
from dataclasses import replace

import pytest

from raystudy.study.comparing import compare_study
from raystudy.study.state import StudyState
from raystudy.study.verdict import verdict
from raystudy.study.waves import make_wave
from tests.planted import RECIPES, curved_loss, planted_state, study_spec

ORDER = {name: 4.0 + 0.1 * index for index, name in enumerate(RECIPES)}
# Every other recipe is best at a lower LR: at one fixed LR the order is not the tuned order.
BENT = {name: (1e-3 if index % 2 else 1e-2) for index, name in enumerate(RECIPES)}
SAME = dict.fromkeys(RECIPES, 1e-2)


def losses(best_lr, reduced_right=True, standard_right=True, noise=0.002):
    """Target: tuned order. Proxy at the reduced or standard LR: the right or the reversed order."""
    target = curved_loss(ORDER, best_lr, curvature=0.2, noise=noise)
    right = curved_loss(ORDER, SAME, curvature=0.2, noise=noise)
    wrong = curved_loss({name: 9.0 - value for name, value in ORDER.items()}, SAME, curvature=0.2, noise=noise)

    def loss(run):
        if run.model == "target":
            return target(run)
        is_right = reduced_right if run.lr < 5e-3 else standard_right
        return (right if is_right or run.recipe == "a" else wrong)(run)

    return loss


def test_planted_records_in_which_the_reduced_lr_is_better_give_that_verdict():
    comparison = compare_study(planted_state(losses(BENT, standard_right=False)))
    assert comparison["verdict"]["outcome"] == "reduced"
    assert (
        "'reduced' (LR 0.001) recovers the order of 'truth' better than 'standard' (LR 0.01)"
        in comparison["verdict"]["sentence"]
    )


def test_planted_records_in_which_the_standard_lr_is_better_give_the_other_verdict():
    comparison = compare_study(planted_state(losses(BENT, reduced_right=False)))
    assert comparison["verdict"]["outcome"] == "standard"
    better, worse = (
        next(e["spearman"]["value"] for e in comparison["comparisons"] if e["candidate"] == name)
        for name in ("standard", "reduced")
    )
    assert f"Spearman {better:.2f} [" in comparison["verdict"]["sentence"]
    assert f"difference {better - worse:.2f} [" in comparison["verdict"]["sentence"]


def test_planted_records_in_which_both_do_as_well_are_undecided():
    comparison = compare_study(planted_state(losses(BENT, noise=0.03)))
    assert comparison["verdict"]["outcome"] == "undecided"
    assert comparison["verdict"]["sentence"].startswith("Undecided whether 'reduced'")


def test_where_tuning_does_not_reorder_the_verdict_says_so():
    comparison = compare_study(planted_state(losses(SAME, standard_right=False)))
    assert comparison["premise"]["outcome"] == "does-not-reorder"
    assert comparison["verdict"]["outcome"] == "indistinct"
    assert "cannot distinguish a tuned truth from a fixed one" in comparison["verdict"]["sentence"]


def test_a_missing_run_blocks_the_verdict_and_is_named():
    state = planted_state(losses(BENT))
    lost = next(iter(state.records))
    comparison = compare_study(
        StudyState(state.study, state.inputs, {k: v for k, v in state.records.items() if k != lost})
    )
    assert comparison["verdict"]["outcome"] == "blocked"
    assert len(comparison["missing"]) == 1
    assert comparison["missing"][0]["reason"].startswith("no result: a | target")


def test_the_comparison_is_strict_json_and_the_same_digit_for_digit_twice():
    first, second = (compare_study(planted_state(losses(BENT))) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


def test_permuting_the_recipes_changes_no_figure():
    study = study_spec()
    turned = study.model_copy(update={"recipes": tuple(reversed(study.recipes))})
    first, second = (compare_study(planted_state(losses(BENT), s)) for s in (study, turned))
    for one, other in zip(first["comparisons"], second["comparisons"], strict=True):
        for figure in ("spearman", "kendall_tau_b", "decision_accuracy", "regret", "separable_decision_accuracy"):
            assert one[figure] == other[figure]


def test_entries_come_one_per_candidate_and_metric_in_the_studys_order():
    comparison = compare_study(planted_state(losses(BENT)))
    assert [(entry["candidate"], entry["metric"]) for entry in comparison["comparisons"]][:4] == [
        ("standard", "loss"),
        ("standard", "loss/p"),
        ("standard", "loss/q"),
        ("reduced", "loss"),
    ]


def test_controls_stand_outside_the_headline_and_inside_a_subset():
    study = study_spec()
    recipes = (study.recipes[0].model_copy(update={"control": True}), *study.recipes[1:])
    comparison = compare_study(planted_state(losses(BENT), study.model_copy(update={"recipes": recipes})))
    entry = comparison["comparisons"][0]
    assert entry["num_recipes"] == 7
    assert entry["subsets"]["with-controls"]["num_recipes"] == 8


def test_near_ties_are_the_members_of_families():
    study = study_spec()
    recipes = tuple(r.model_copy(update={"family": "ladder"}) if r.name in "abc" else r for r in study.recipes)
    comparison = compare_study(planted_state(losses(BENT), study.model_copy(update={"recipes": recipes})))
    assert comparison["comparisons"][0]["subsets"]["near-ties"]["num_recipes"] == 3


def test_guards_name_recipes_that_were_barely_trained_diverged_or_on_the_edge():
    low = dict.fromkeys(RECIPES, 1e-6)  # beyond 1e-5, where the grid's extension ends

    def loss(run):
        if run.model == "proxy" and run.recipe == "b" and run.lr == 1e-1:
            return float("inf")
        return curved_loss(ORDER, low, curvature=0.02)(run)

    comparison = compare_study(planted_state(loss, floor=4.25))
    by_name = {entry["candidate"]: entry for entry in comparison["comparisons"] if entry["metric"] == "loss"}
    assert by_name["ladder@0.1"]["guards"]["diverged"] == ["b"]
    assert by_name["ladder@0.1"]["num_diverged"] == 3
    assert "a" not in by_name["ladder@0.001"]["guards"]["barely_trained"]
    assert "h" in by_name["ladder@0.001"]["guards"]["barely_trained"]
    assert all(row["edge"] == "low" for row in comparison["tuned_losses"])
    assert "the truth is on its grid's edge on 8 recipes" in comparison["verdict"]["sentence"]


def test_recipes_whose_source_was_read_more_than_once_are_named_and_others_are_not():
    state = planted_state(losses(BENT))
    runs = [run for run in make_wave(state).wanted.values() if (run.recipe, run.model) == ("c", "target")]
    read_again = {"seconds": {"total": 2.0}, "epochs_per_source": [0.4, 1.5]}
    changed = {run.run_id: replace(state.records[run.run_id], result=read_again) for run in runs}
    comparison = compare_study(state.with_records({**state.records, **changed}))
    assert comparison["truth_guards"]["repeated"] == ["c"]
    assert "the truth repeats data on 1 recipe" in comparison["verdict"]["sentence"]
    assert compare_study(state)["truth_guards"]["repeated"] == []


def test_a_protocols_cost_holds_the_sweep_behind_its_rule():
    comparison = compare_study(planted_state(losses(BENT)))
    reduced = next(entry for entry in comparison["comparisons"] if entry["candidate"] == "reduced")
    assert reduced["cost"]["num_runs"] == 30  # 8 recipes x 3 seeds, and 3 x 3 of the baseline's sweep, 3 shared
    assert reduced["cost"]["tokens"] == 30 * 10 * 64
    assert reduced["cost"]["device_seconds"] == pytest.approx(60.0)
    assert reduced["runs_per_score"] == 1


def test_a_known_truth_needs_no_runs_and_has_no_premise():
    known = {"kind": "known", "scores": ORDER}
    standard = study_spec().protocols["standard"].model_dump(mode="json")
    study = study_spec(protocols={"truth": known, "standard": standard}, comparison={"resamples": 300})
    comparison = compare_study(planted_state(losses(SAME), study))
    assert comparison["premise"] is None
    assert comparison["tuned_losses"] == []
    assert comparison["comparisons"][0]["spearman"]["value"] == pytest.approx(1.0)
    assert comparison["comparisons"][0]["spearman"]["these_recipes"] is not None


def test_with_one_seed_everything_is_undecided_and_no_interval_is_given():
    study = study_spec()
    protocols = {name: {**spec.model_dump(mode="json"), "seeds": [0]} for name, spec in study.protocols.items()}
    comparison = compare_study(planted_state(losses(BENT), study_spec(protocols=protocols)))
    assert comparison["verdict"]["outcome"] == "undecided"
    assert comparison["comparisons"][0]["spearman"]["these_recipes"] is None
    assert any(note["field"].startswith("these_recipes") for note in comparison["comparisons"][0]["notes"])


def test_losses_are_those_planted():
    state = planted_state(losses(SAME, noise=0.0))
    table = {row["recipe"]: row["loss"] for row in compare_study(state)["tuned_losses"]}
    assert list(table.values()) == pytest.approx(list(ORDER.values()))


def test_a_study_that_is_still_running_is_compared_as_far_as_it_goes():
    state = planted_state(losses(BENT))
    some = dict(list(state.records.items())[: len(state.records) // 2])
    comparison = compare_study(StudyState(state.study, state.inputs, some))
    assert comparison["verdict"]["outcome"] == "blocked"
    assert sum(row["num_runs"] for row in comparison["missing"]) >= len(state.records) // 2


def test_a_table_that_covers_one_recipe_gives_null_figures_and_spares_the_others(tmp_path):
    (tmp_path / "one.csv").write_text("recipe,score\na,1.0\n")
    protocols = {name: spec.model_dump(mode="json") for name, spec in study_spec().protocols.items()}
    table = {"kind": "table", "file": str(tmp_path / "one.csv")}
    comparison = compare_study(planted_state(losses(BENT), study_spec(protocols={**protocols, "table": table})))
    by_name = {entry["candidate"]: entry for entry in comparison["comparisons"] if entry["metric"] == "loss"}
    assert by_name["table"]["spearman"]["value"] is None
    assert by_name["standard"]["spearman"]["value"] is not None


def test_guards_look_at_the_truth_too():
    comparison = compare_study(planted_state(losses(BENT), floor=4.25))
    assert "h" in comparison["truth_guards"]["barely_trained"]
    assert "the truth has not beaten the unigram floor" in comparison["verdict"]["sentence"]


def test_the_verdict_says_how_many_contradictions_it_does_not_name():
    comparison = compare_study(planted_state(losses(SAME)))
    for found, end in (
        (["x"], "each other: x."),
        (["x", "y"], "x; 1 more contradiction in the"),
        (["x"] * 4, "x; 3 more"),
    ):
        said = verdict({**comparison, "contradictions": found})
        assert (said["outcome"], end in said["sentence"]) == ("blocked", True), said
