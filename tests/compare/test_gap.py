"""The gap of two recipes: a paired t posterior; one seed decides nothing."""

import numpy as np
import pytest
from scipy import stats

from raystudy.compare.entries import comparison_entries
from raystudy.compare.gap import gap_of_two
from raystudy.compare.scores import Scores

NAMES = ("a", "b")


def side(values, name="s", **more):
    return Scores(name, NAMES, np.array(values, dtype=float), **more)


THREE = side([[1.0, 1.2, 1.1], [1.5, 1.6, 1.9]])


def test_the_interval_and_the_probability_are_those_of_the_paired_t_test():
    gap, notes = gap_of_two(THREE, THREE)
    differences = THREE.values[0] - THREE.values[1]
    test = stats.ttest_1samp(differences, 0.0)
    bounds = test.confidence_interval(0.95)
    assert gap["truth"]["value"] == pytest.approx(differences.mean())
    assert (gap["truth"]["these_recipes"]["low"], gap["truth"]["these_recipes"]["high"]) == pytest.approx(tuple(bounds))
    assert gap["truth"]["probability_a_better"] == pytest.approx(1 - test.pvalue / 2)
    assert (gap["a"], gap["b"], gap["truth"]["outcome"], notes) == ("a", "b", "a", [])


def test_exchanging_the_recipes_turns_the_gap_round():
    gap, _ = gap_of_two(THREE, side(THREE.values[::-1]))
    assert gap["candidate"]["value"] == -gap["truth"]["value"]
    assert gap["candidate"]["probability_a_better"] == pytest.approx(1 - gap["truth"]["probability_a_better"])
    assert gap["candidate"]["outcome"] == "b"


def test_one_seed_is_undecided_with_a_reason_and_never_of_zero_width():
    gap, notes = gap_of_two(THREE, side([[1.0], [2.0]]))
    assert gap["candidate"] == {
        "value": -1.0, "these_recipes": None, "probability_a_better": None, "outcome": "undecided"
    }  # fmt: skip
    assert notes == [{"field": "gap.candidate.these_recipes", "reason": "the noise of a gap needs two seeds or more"}]
    gap, notes = gap_of_two(side([[1.0, 1.0], [2.0, 2.0]]), THREE)
    assert gap["truth"]["these_recipes"] is None
    assert "no seed moves the gap" in notes[0]["reason"]


def test_a_known_truth_is_exact_and_a_diverged_run_has_no_gap():
    known = side([[1.0], [1.0]], noise_free=True)
    gap, notes = gap_of_two(known, side([[1.0, np.inf], [2.0, 2.0]]))
    assert gap["truth"]["these_recipes"] == {"low": 0.0, "high": 0.0}
    assert gap["truth"]["probability_a_better"] == 0.5
    assert gap["candidate"]["value"] is None
    assert "diverged" in notes[0]["reason"]


def test_the_interval_covers_the_expected_gap():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        blocks = rng.normal(size=2)
        gap, _ = gap_of_two(THREE, side(blocks + rng.normal(size=(2, 2)) + np.array([[0.0], [1.0]])))
        bounds = gap["candidate"]["these_recipes"]
        covered += bounds["low"] <= -1.0 <= bounds["high"]
    assert covered / 400 == pytest.approx(0.95, abs=0.035)  # three standard errors


def test_entries_have_a_gap_only_over_two_recipes():
    names = ("a", "b", "c")
    three = Scores("t", names, np.arange(6.0).reshape(3, 2)[:, ::-1])
    settings = {"metric": "m", "seed": 0, "resamples": 100}
    candidate = Scores("c", names, three.values)
    entry = comparison_entries(three, [candidate], recipes=names, subsets={"two": names[:2]}, **settings)[0]
    assert entry["gap"] is None
    assert entry["subsets"]["two"]["gap"]["truth"]["value"] == -2.0
