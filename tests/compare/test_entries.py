"""Entries: their laws, what they leave out and why, and that they are plain JSON."""

import json

import numpy as np
import pytest

from raystudy.compare.entries import comparison_entries
from raystudy.compare.scores import Scores
from raystudy.errors import DataError

NAMES = tuple(f"recipe-{letter}" for letter in "gbfadceh")
FIGURES = ("spearman", "kendall_tau_b", "pearson", "decision_accuracy", "separable_decision_accuracy")


def scores(name="candidate", *, error=0.3, seeds=2, seed=0, recipes=NAMES, **more):
    """Recipe i has expected loss i; a candidate adds an error of its own per recipe, and every run noise."""
    rng = np.random.default_rng([seed, len(name)])
    expected = np.arange(len(recipes)) + error * rng.standard_normal(len(recipes))
    return Scores(name, recipes, expected[:, None] + 0.1 * rng.standard_normal((len(recipes), seeds)), **more)


def entries(truth, *candidates, recipes=NAMES, subsets=None, **more):
    settings = {"metric": "loss", "seed": 0, "resamples": 60, **more}
    return comparison_entries(truth, candidates, recipes=recipes, subsets=subsets or {}, **settings)


TRUTH = scores("truth", error=0.0)


def test_an_entry_has_the_fields_of_the_format_and_is_plain_json():
    candidate = scores(runs_per_score=1, error=2.0)
    (entry,) = entries(TRUTH, candidate, subsets={"near-ties": NAMES[:4], "one": NAMES[:1]})
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    head = [
        "candidate",
        "metric",
        "direction",
        "num_recipes",
        *FIGURES,
        "regret",
        "gap",
        "excluded",
        "notes",
        "num_diverged",
    ]
    assert list(entry) == [*head, "subsets"]
    assert (entry["candidate"], entry["metric"], entry["direction"]) == ("candidate", "loss", "lower-is-better")
    assert list(entry["regret"]) == ["1", "3", "5"]
    figures = [entry[name] for name in FIGURES] + [figure for k in entry["regret"].values() for figure in k.values()]
    for figure in figures:
        assert figure["these_recipes"]["low"] <= figure["these_recipes"]["high"]
    for name in FIGURES:
        likes = entry[name]["recipes_like_these"]
        assert likes["low"] <= entry[name]["value"] <= likes["high"]
    assert all(figure["recipes_like_these"] is None for kinds in entry["regret"].values() for figure in kinds.values())
    assert entry["notes"] == []
    assert entry["gap"] is None
    assert entry["separable_decision_accuracy"]["separability"] == "same-seeds"
    assert entry["subsets"]["near-ties"]["num_recipes"] == 4
    assert entry["subsets"]["near-ties"]["regret"]["5"]["best_of_k"]["value"] is None
    assert {"field": "regret.5", "reason": "k = 5 exceeds the number of recipes, 4"} in entry["subsets"]["near-ties"][
        "notes"
    ]
    assert entry["subsets"]["one"]["decision_accuracy"]["value"] is None


def test_permuting_the_recipes_changes_nothing_digit_for_digit():
    candidate = scores(runs_per_score=1)
    order = list(np.random.default_rng(1).permutation(len(NAMES)))
    shuffled = tuple(NAMES[i] for i in order)
    (one,) = entries(TRUTH, candidate, subsets={"s": NAMES[:5]})
    (other,) = entries(TRUTH.restrict(shuffled), candidate, recipes=shuffled, subsets={"s": NAMES[4::-1]})
    assert json.dumps(one) == json.dumps(other)


def test_adding_a_candidate_changes_no_other_entry():
    first, second = scores("first"), scores("second", error=2.0)
    assert entries(TRUTH, second, first)[1] == entries(TRUTH, first)[0]


def test_the_seed_the_metric_and_the_candidates_name_each_move_the_draws():
    base = entries(TRUTH, scores())[0]["pearson"]["these_recipes"]
    renamed = Scores("another", NAMES, scores().values)
    for other in (
        entries(TRUTH, scores(), seed=1),
        entries(TRUTH, scores(), metric="loss/books"),
        entries(TRUTH, renamed),
    ):
        assert other[0]["pearson"]["these_recipes"] != base


def test_a_perfect_candidate_scores_one_and_costs_nothing():
    (entry,) = entries(TRUTH, Scores("same", NAMES, TRUTH.values))
    assert [entry[name]["value"] for name in FIGURES] == [1.0] * 5
    assert all(figure["value"] == 0.0 for kinds in entry["regret"].values() for figure in kinds.values())


def test_a_reversed_candidate_scores_minus_one_and_orders_no_pair_right():
    (entry,) = entries(TRUTH, Scores("reversed", NAMES, -TRUTH.values))
    assert [entry[name]["value"] for name in FIGURES] == [-1.0, -1.0, pytest.approx(-1.0), 0.0, 0.0]
    assert entry["regret"]["1"]["best_of_k"]["value"] == pytest.approx(np.ptp(TRUTH.means()))


def test_a_monotone_transform_of_the_candidate_leaves_rank_figures_alone():
    candidate = scores(runs_per_score=1, error=1.0)
    (one,) = entries(TRUTH, candidate)
    (other,) = entries(TRUTH, Scores("candidate", NAMES, np.exp(candidate.values), runs_per_score=1))
    for name in ("spearman", "kendall_tau_b", "decision_accuracy", "separable_decision_accuracy"):
        assert one[name]["value"] == other[name]["value"]
    assert one["regret"]["3"]["mean_of_k"]["value"] == other["regret"]["3"]["mean_of_k"]["value"]


def test_the_value_is_the_mean_over_scores_at_the_advertised_number_of_runs():
    candidate = scores(error=1.5, seeds=2, runs_per_score=1)
    singles = [entries(TRUTH, Scores("c", NAMES, candidate.values[:, [j]]))[0]["spearman"]["value"] for j in (0, 1)]
    assert entries(TRUTH, candidate)[0]["spearman"]["value"] == pytest.approx(np.mean(singles))


@pytest.mark.parametrize(("truth_seeds", "candidate_seeds"), [(1, 2), (2, 1)])
def test_one_seed_gives_null_and_a_reason_not_zero_width(truth_seeds, candidate_seeds):
    (entry,) = entries(scores("truth", error=0.0, seeds=truth_seeds), scores(seeds=candidate_seeds))
    assert entry["spearman"]["value"] is not None
    assert entry["spearman"]["these_recipes"] is None
    assert entry["regret"]["1"]["best_of_k"]["these_recipes"] is None
    reason = "an interval needs two seeds or more on both sides"
    assert {"field": "these_recipes", "reason": reason} in entry["notes"]
    separable = entry["separable_decision_accuracy"]
    assert (separable["value"] is None) == (truth_seeds == 1)


def test_a_known_truth_needs_one_column_only():
    truth = Scores("known", NAMES, np.arange(8.0)[:, None], noise_free=True)
    (entry,) = entries(truth, scores())
    assert entry["spearman"]["these_recipes"] is not None
    assert entry["separable_decision_accuracy"]["separability"] == "noise-free"
    assert entry["separable_decision_accuracy"]["num_pairs"] == 28


def test_a_diverged_candidate_is_tied_worst_and_counted():
    values = scores().values.copy()
    values[[6, 7], 1] = np.inf
    (entry,) = entries(TRUTH, Scores("candidate", NAMES, values))
    worst = np.where(np.isinf(values).any(axis=1, keepdims=True), 99.0, values)
    (tied,) = entries(TRUTH, Scores("candidate", NAMES, worst))
    assert entry["num_diverged"] == 2
    for name in ("spearman", "kendall_tau_b", "decision_accuracy"):
        assert entry[name]["value"] == tied[name]["value"]
    assert entry["pearson"] == {"value": None, "these_recipes": None, "recipes_like_these": None}
    assert {"field": "pearson", "reason": "2 of the candidate's runs diverged"} in entry["notes"]
    assert "these_recipes" in [note["field"] for note in entry["notes"]]
    json.dumps(entry, allow_nan=False)


def test_what_is_missing_on_either_side_is_left_out_and_named():
    truth, candidate = TRUTH.values.copy(), scores().values.copy()
    truth[0], truth[1, 0], truth[2, 1], candidate[3, 0] = np.inf, np.inf, np.nan, np.nan
    (entry,) = entries(Scores("truth", NAMES, truth), Scores("candidate", NAMES, candidate).restrict(NAMES[:7]))
    assert entry["num_recipes"] == 3
    assert {item["recipe"]: item["reason"] for item in entry["excluded"]} == {
        NAMES[0]: "all truth runs diverged",
        NAMES[1]: "1 of 2 truth runs diverged",
        NAMES[2]: "1 of 2 truth runs missing",
        NAMES[3]: "1 of 2 runs of 'candidate' missing",
        NAMES[7]: "no score by 'candidate'",
    }


def test_two_recipes_have_no_correlation_but_a_decision_and_a_regret():
    (entry,) = entries(TRUTH, scores(), recipes=NAMES[:2])
    assert entry["spearman"]["value"] is entry["pearson"]["value"] is None
    assert entry["decision_accuracy"]["value"] == 1.0
    assert entry["regret"]["1"]["best_of_k"]["value"] == 0.0
    reasons = {note["field"]: note["reason"] for note in entry["notes"]}
    assert reasons["spearman"] == "a correlation needs three recipes or more, and 2 recipes are left"
    assert reasons["these_recipes"] == "an interval needs 4 recipes or more, and 2 are left"


def test_equal_scores_of_a_candidate_are_undefined_with_a_reason():
    (entry,) = entries(TRUTH, Scores("flat", NAMES, np.ones((8, 2))))
    reasons = {note["field"]: note["reason"] for note in entry["notes"]}
    assert reasons["spearman"] == "all scores of the candidate are equal"
    assert entry["decision_accuracy"]["value"] == 0.5
    (entry,) = entries(Scores("truth", NAMES, np.ones((8, 2))), scores())
    reasons = {note["field"]: note["reason"] for note in entry["notes"]}
    assert reasons["decision_accuracy"] == "all truths are equal"
    json.dumps(entry, allow_nan=False)


def test_fewer_than_two_recipes_give_null_figures_and_name_what_is_left_out():
    values = np.array([[1.0, 1.1], [np.nan, np.nan]])
    truth = Scores("truth", ("a", "b"), np.array([[1.0, 1.1], [2.0, 2.1]]))
    entry = comparison_entries(
        truth, [Scores("x", ("a", "b"), values)], metric="loss", recipes=["a", "b"], subsets={}, seed=0, resamples=100
    )[0]
    assert entry["num_recipes"] == 1
    assert entry["spearman"]["value"] is None
    assert [item["recipe"] for item in entry["excluded"]] == ["b"]
    json.dumps(entry, allow_nan=False)


def test_candidates_and_recipes_are_named_once():
    with pytest.raises(DataError, match="different names"):
        entries(TRUTH, scores(), scores())
    with pytest.raises(DataError, match="compared once"):
        entries(TRUTH, scores(), recipes=[*NAMES, NAMES[0]])
