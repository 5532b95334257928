"""A table's comparison: the format of a study's, laws, seeds, and a page that can be rendered from it."""

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystudy.artifacts.score_table import ScoreRow
from raystudy.errors import DataError
from raystudy.report.page import render_page
from raystudy.study.comparing import compare_study
from raystudy.study.protocols.given import table_scores
from raystudy.study.table_comparison import TableQuestion, compare_table
from tests.planted import planted_state, study_spec
from tests.study.test_comparing import BENT, losses

NAMES = [f"recipe {letter}" for letter in "abcdefghij"]


def table(num_recipes=10, seeds=2, protocols=("truth", "good", "bad"), metrics=("loss",), seed=0):
    rng = np.random.default_rng(seed)
    error = {"truth": 0.0, "good": 1.0, "bad": 5.0}
    rows = []
    for protocol, metric in itertools.product(protocols, metrics):
        for place, recipe in enumerate(NAMES[:num_recipes]):
            expected = place + error[protocol] * rng.standard_normal()
            for number in range(seeds):
                score = float(expected + 0.1 * rng.standard_normal())
                rows.append(ScoreRow(recipe, score, protocol, f"s{number}", metric))
    return rows


def compare(rows, candidates=("good", "bad"), higher=(), truth="truth", **more):
    question = {"name": "t.csv", "seed": 0, "resamples": 200, **more}
    return compare_table(
        rows, TableQuestion(truth=truth, candidates=candidates, higher_is_better=frozenset(higher), **question)
    )


def test_it_has_every_field_of_a_studys_comparison_and_renders():
    of_table, of_study = compare(table()), compare_study(planted_state(losses(BENT)))
    assert set(of_study) <= set(of_table)
    assert set(of_study["comparisons"][0]) <= set(of_table["comparisons"][0])
    assert set(of_study["comparisons"][0]["cost"]) == set(of_table["comparisons"][0]["cost"])
    assert of_table["format"] == of_study["format"] == "raystudy-comparison/1"
    assert (of_table["unit"], of_study["unit"]) == ("score", "nats per token")
    assert json.loads(json.dumps(of_table, allow_nan=False)) == of_table
    page = render_page(of_table, {})
    assert "best of k, score" in page
    assert "nats" not in page
    assert "None" not in page.replace("None.", "").replace("None: every", "")
    assert of_table["verdict"]["outcome"] == "good"


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_moves_no_digit(shuffler: random.Random):
    rows = table(metrics=("loss", "z"))
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert json.dumps(compare(shuffled)) == json.dumps(compare(rows))


def test_renaming_the_recipes_in_order_renames_them_and_keeps_every_value():
    new = {name: f"../{name} <b>" for name in NAMES}
    renamed = [ScoreRow(new[row.recipe], row.score, row.protocol, row.seed, row.metric) for row in table()]
    old, now = compare(table()), compare(renamed)
    assert [row["name"] for row in now["recipes"]] == list(new.values())
    for before, after in zip(old["comparisons"], now["comparisons"], strict=True):
        assert before["spearman"]["value"] == after["spearman"]["value"]
    assert "<b>" not in render_page(now, {})


def test_a_perfect_protocol_scores_one():
    rows = table(protocols=("truth",))
    rows += [ScoreRow(row.recipe, row.score, "same", row.seed, row.metric) for row in rows]
    (entry,) = compare(rows, candidates=("same",))["comparisons"]
    assert entry["spearman"]["value"] == entry["decision_accuracy"]["value"] == 1.0
    assert entry["regret"]["1"]["best_of_k"]["value"] == 0.0


def test_negating_the_scores_and_the_direction_is_the_identity():
    negated = [ScoreRow(row.recipe, -row.score, row.protocol, row.seed, row.metric) for row in table()]
    plain, turned = compare(table()), compare(negated, higher=["loss"])
    for before, after in zip(plain["comparisons"], turned["comparisons"], strict=True):
        assert (before["direction"], after["direction"]) == ("lower-is-better", "higher-is-better")
        assert {**before, "direction": 0} == {**after, "direction": 0}
    assert turned["conventions"]["direction"] == "higher is better, negated once when read: 'loss'"
    assert turned["verdict"] == plain["verdict"]


def test_intervals_stand_where_seeds_and_recipes_allow_them():
    (entry,) = compare(table(), candidates=("good",))["comparisons"]
    assert entry["spearman"]["these_recipes"] is not None
    assert entry["spearman"]["recipes_like_these"] is not None
    (entry,) = compare(table(num_recipes=7, seeds=1), candidates=("good",))["comparisons"]
    reasons = {note["field"]: note["reason"] for note in entry["notes"]}
    assert reasons["these_recipes"] == "an interval needs two seeds or more on both sides"
    assert "needs 8 families" in reasons["recipes_like_these"]


def test_where_seeds_differ_a_score_is_the_mean_over_the_seeds_there_are():
    rows = table()
    del rows[1]  # the truth's second seed of the first recipe
    comparison = compare(rows, candidates=("good",))
    (entry,) = comparison["comparisons"]
    assert entry["num_recipes"] == 10
    assert entry["excluded"] == []
    assert entry["spearman"]["these_recipes"] is None
    assert entry["spearman"]["recipes_like_these"] is not None
    reasons = {note["field"]: note["reason"] for note in entry["notes"]}
    assert reasons["these_recipes"] == "recipes of 'truth' have different seeds: 'recipe a' lacks seed 's1'"


def test_a_recipe_without_a_score_on_either_side_is_left_out_and_named():
    rows = [
        row
        for row in table()
        if (row.recipe, row.protocol) not in {("recipe a", "truth"), ("recipe b", "good"), ("recipe c", "bad")}
    ]
    good, bad = compare(rows)["comparisons"]
    assert good["excluded"] == [
        {"recipe": "recipe a", "reason": "no score by the truth"},
        {"recipe": "recipe b", "reason": "no score by 'good'"},
    ]
    assert [item["recipe"] for item in bad["excluded"]] == ["recipe a", "recipe c"]


def test_metrics_stand_by_themselves_and_what_the_truth_lacks_is_said():
    rows = table(metrics=("zeta", "beta"))
    rows += [ScoreRow("recipe a", 1.0, "good", "0", "only here")]
    comparison = compare(rows, candidates=("good",), higher=["zeta"])
    assert comparison["primary_metric"] == "beta"
    assert {e["metric"]: e["direction"] for e in comparison["comparisons"]} == {
        "beta": "lower-is-better", "zeta": "higher-is-better"
    }  # fmt: skip
    assert comparison["conventions"]["left out"] == "the truth has no score on 'only here'"


def test_two_recipes_give_a_gap_a_verdict_and_a_page():
    comparison = compare(table(num_recipes=2, seeds=4))
    good, _ = comparison["comparisons"]
    assert good["spearman"]["value"] is None
    assert good["gap"]["truth"]["outcome"] == good["gap"]["candidate"]["outcome"] == "a"
    assert good["gap"]["truth"]["probability_a_better"] > 0.99
    assert "'truth' puts 'recipe a' first by " in comparison["verdict"]["sentence"]
    page = render_page(comparison, {})
    assert "Which of the two recipes is better?" in page
    only = compare(table(num_recipes=2, seeds=4), candidates=("good",))
    assert only["verdict"]["outcome"] == "good"
    one_seed = compare(table(num_recipes=2, seeds=1), candidates=("good",))
    assert one_seed["verdict"]["outcome"] == "undecided"
    assert one_seed["verdict"]["sentence"].startswith("Undecided: of two recipes, 'truth' puts 'recipe a' first by ")
    assert "no interval" in render_page(one_seed, {})


def test_a_study_of_two_recipes_is_compared_and_reported():
    spec = study_spec()
    two = study_spec(recipes=[recipe.model_dump(mode="json") for recipe in spec.recipes[:2]])
    comparison = compare_study(planted_state(losses(BENT), two))
    sentence = comparison["verdict"]["sentence"]
    assert sentence.startswith(
        "Undecided which candidate does better, since 2 choose as the truth does: of two recipes, "
    )
    assert "nats per token" in comparison["verdict"]["sentence"]
    assert all(entry["gap"]["truth"]["value"] is not None for entry in comparison["comparisons"])
    assert "Which of the two recipes is better?" in render_page(comparison, {})


def test_one_recipe_is_refused():
    with pytest.raises(DataError, match="two recipes or more to compare, but has 1"):
        compare(table(num_recipes=1))


def test_a_studys_table_may_hold_several_protocols_and_any_format(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("recipe,protocol,score\na,mine,1\nb,mine,2\na,other,9\n")
    assert table_scores(path, "mine", ("a", "b", "c"), "loss").values[:2].tolist() == [[1.0], [2.0]]
    with pytest.raises(
        DataError, match="must have rows whose protocol is 'third', but its protocols are 'mine', 'other'"
    ):
        table_scores(path, "third", ("a", "b"), "loss")
