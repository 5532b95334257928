"""Scores, their seed noise, and the pairs that the truth separates."""

import numpy as np
import pytest

from raystudy.compare.noise import seed_noise
from raystudy.compare.scores import Scores
from raystudy.compare.separable import gap_p_values, separable_pairs
from raystudy.errors import DataError


def test_groups_are_consecutive_seeds_and_a_diverged_member_makes_the_group_diverged():
    scores = Scores("s", ("a", "b"), np.array([[1.0, 3.0, 5.0, 7.0], [2.0, np.inf, 4.0, 4.0]]), runs_per_score=2)
    assert scores.groups().tolist() == [[2.0, np.inf], [6.0, 4.0]]
    assert scores.restrict(["b"]).means().tolist() == [np.inf]


@pytest.mark.parametrize(
    ("recipes", "values", "runs", "words"),
    [
        (("a", "b"), np.ones((3, 2)), None, "2 rows"),
        (("a", "b"), np.ones((2, 0)), None, "one column or more"),
        (("a", "a"), np.ones((2, 2)), None, "occur once"),
        (("a", "b"), np.ones((2, 3)), 2, "divide"),
        (("a", "b"), np.array([[1.0], [-np.inf]]), None, "diverged run"),
    ],
)
def test_scores_that_break_a_rule_say_which(recipes, values, runs, words):
    with pytest.raises(DataError, match=words):
        Scores("s", recipes, values, runs)


def test_restricting_to_an_unknown_recipe_names_it():
    with pytest.raises(DataError, match="'z'"):
        Scores("s", ("a", "b"), np.ones((2, 1))).restrict(["z"])


def test_noise_leaves_out_what_a_seed_does_to_all_recipes():
    # Residuals after row and column means are +-0.5, four of them, one degree of freedom.
    noise = seed_noise(Scores("s", ("a", "b"), np.array([[0.0, 10.0], [1.0, 13.0]])))
    assert noise is not None
    assert (noise.dof, noise.variance) == (1, pytest.approx(4 * 0.5**2))


def test_noise_is_unknown_with_one_seed_and_zero_where_seeds_agree():
    assert seed_noise(Scores("s", ("a", "b"), np.array([[1.0], [2.0]]))) is None
    copies = np.repeat(np.array([[0.1], [0.7], [1.3]]), 3, axis=1)
    noise = seed_noise(Scores("s", ("a", "b", "c"), copies))
    assert noise is not None
    assert noise.variance == 0.0


def test_noise_leaves_out_recipes_with_a_gap():
    values = np.array([[0.0, 10.0], [1.0, 13.0], [np.inf, 1.0], [1.0, np.nan]])
    noise = seed_noise(Scores("s", ("a", "b", "c", "d"), values))
    assert noise is not None
    assert noise.dof == 1


def test_pairs_far_apart_are_separable_and_near_ties_are_not():
    values = np.array([[0.0, 0.1], [0.05, 0.04], [5.0, 5.1], [9.0, 9.05]])
    found = separable_pairs(Scores("t", ("a", "b", "c", "d"), values))
    assert found is not None
    assert found.tolist() == [False, True, True, True, True, True]


def test_a_truth_without_noise_separates_whatever_differs():
    found = separable_pairs(Scores("t", ("a", "b", "c"), np.array([[1.0], [1.0], [1.1]]), noise_free=True))
    assert found is not None
    assert found.tolist() == [False, True, True]


def test_the_gap_test_is_the_paired_t_test_for_two_recipes():
    # For two recipes the recipe x seed residual is that of the differences: scipy's ttest_rel.
    from scipy import stats

    values = np.array([[1.0, 1.4, 1.1], [2.0, 2.1, 1.9]])
    noise = seed_noise(Scores("t", ("a", "b"), values))
    assert noise is not None
    gap = np.array([values[0].mean() - values[1].mean()])
    assert gap_p_values(gap, noise.variance, 3, noise.dof)[0] == pytest.approx(stats.ttest_rel(*values).pvalue)
