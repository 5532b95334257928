"""Two candidates on the same resamples: planted winners, planted draws, and what cannot be decided."""

import json

import numpy as np
import pytest

from raystudy.compare.contrast import contrast
from raystudy.compare.scores import Scores
from raystudy.errors import DataError

NAMES = tuple(f"r{i:02d}" for i in range(12))


def planted(name, correlation, *, noise=0.05, seeds=2, stream=0):
    """Scores whose expected values correlate so with the truth's, which are normal with unit variance."""
    truth = np.random.default_rng(100).standard_normal(12)
    rng = np.random.default_rng([stream, len(name)])
    expected = correlation * truth + np.sqrt(1 - correlation**2) * rng.standard_normal(12)
    return Scores(name, NAMES, expected[:, None] + noise * rng.standard_normal((12, seeds)))


TRUTH = planted("truth", 1.0)
GOOD, BAD = planted("good", 0.99), planted("poor one", -0.5)


def compare(a, b, **more):
    return contrast(TRUTH, a, b, **{"recipes": NAMES, "seed": 0, "resamples": 200, **more})


def test_a_planted_winner_is_found_on_either_side():
    found = compare(GOOD, BAD)
    assert found["outcome"] == "a"
    assert found["difference"]["value"] == found["a_value"] - found["b_value"] > 0
    assert compare(BAD, GOOD)["outcome"] == "b"
    json.dumps(found, allow_nan=False)


def test_swapping_the_sides_negates_every_number_exactly():
    one, other = compare(GOOD, BAD), compare(BAD, GOOD)
    assert one["difference"]["value"] == -other["difference"]["value"]
    bounds, swapped = one["difference"]["these_recipes"], other["difference"]["these_recipes"]
    assert (bounds["low"], bounds["high"]) == (-swapped["high"], -swapped["low"])


def test_permuting_the_recipes_changes_nothing():
    assert compare(GOOD, BAD) == compare(GOOD, BAD, recipes=NAMES[::-1])


def test_two_equally_good_candidates_are_undecided():
    noise = 0.5 * np.random.default_rng(0).standard_normal((2, 12, 2))
    expected = GOOD.means()[:, None]
    found = compare(Scores("first", NAMES, expected + noise[0]), Scores("second", NAMES, expected + noise[1]))
    assert found["outcome"] == "undecided"
    assert found["difference"]["these_recipes"] is not None


def test_one_seed_is_undecided_with_a_reason_however_large_the_gap():
    single = Scores("good", NAMES, GOOD.values[:, :1])
    found = compare(single, BAD)
    assert found["outcome"] == "undecided"
    assert found["difference"]["these_recipes"] is None
    assert found["notes"] == [{"field": "these_recipes", "reason": "an interval needs two seeds or more on both sides"}]


def test_too_few_recipes_leave_the_difference_null():
    found = compare(GOOD, BAD, recipes=NAMES[:2])
    assert (found["a_value"], found["difference"]["value"], found["outcome"]) == (None, None, "undecided")
    found = compare(GOOD, BAD, recipes=NAMES[:4])
    assert found["difference"]["value"] is not None
    assert found["notes"][0]["reason"] == "an interval needs 5 recipes or more, and 4 are left"


def test_a_candidate_of_equal_scores_has_no_difference():
    found = compare(GOOD, Scores("flat", NAMES, np.ones((12, 2))))
    assert (found["b_value"], found["difference"]["value"], found["outcome"]) == (None, None, "undecided")
    json.dumps(found, allow_nan=False)


def test_a_recipe_missing_on_one_side_is_left_out_of_both_and_named():
    found = compare(GOOD.restrict(NAMES[1:]), BAD)
    assert {"field": "r00", "reason": "excluded: no score by 'good'"} in found["notes"]


def test_a_candidate_is_not_contrasted_with_itself():
    with pytest.raises(DataError, match="two candidates"):
        compare(GOOD, GOOD)
