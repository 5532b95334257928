"""Regrets against cases worked by hand and against every order of the tied."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystudy.compare.regret import best_of_k, mean_of_k, regrets
from raystudy.errors import DataError


def test_without_ties_regret_is_what_the_chosen_lose():
    truth, candidate = np.array([1.0, 2.0, 4.0, 8.0]), np.array([3.0, 1.0, 2.0, 4.0])
    # Top 1 is the second recipe (truth 2); top 2 adds the third (truth 4).
    assert best_of_k(truth, candidate, 1) == mean_of_k(truth, candidate, 1) == 1.0
    assert best_of_k(truth, candidate, 2) == 1.0
    assert mean_of_k(truth, candidate, 2) == (2 + 4) / 2 - (1 + 2) / 2


def test_ties_at_the_cut_are_averaged_over_their_orders():
    truth, candidate = np.array([3.0, 0.0, 6.0, 9.0]), np.array([0.0, 1.0, 1.0, 1.0])
    # k = 2: the first (3) and one of 0, 6, 9: best is 0, 3 or 3, so 2 on average; mean is (3 + 5) / 2 against 1.5.
    assert best_of_k(truth, candidate, 2) == pytest.approx(2.0)
    assert mean_of_k(truth, candidate, 2) == pytest.approx(4.0 - 1.5)
    # k = 3: the first and two of three: {0,6}, {0,9}, {6,9}: best 0, 0, 3.
    assert best_of_k(truth, candidate, 3) == pytest.approx(1.0)


def test_diverged_candidates_are_tied_last():
    truth, candidate = np.array([1.0, 2.0, 3.0]), np.array([np.inf, 1.0, np.inf])
    # k = 2: the second and either of the others.
    assert best_of_k(truth, candidate, 2) == pytest.approx((0 + 1) / 2)


def test_a_k_above_the_number_of_recipes_is_refused():
    with pytest.raises(DataError, match="1 <= k"):
        best_of_k(np.ones(2), np.ones(2), 3)


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 9), min_size=n, max_size=n),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
            st.integers(1, n),
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_regret_is_the_mean_over_all_orders_of_the_tied(case):
    truth, candidate, k = np.array(case[0], dtype=float), np.array(case[1], dtype=float), case[2]
    orders = [o for o in permutations(range(truth.size)) if (np.diff(candidate[list(o)]) >= 0).all()]
    best = np.mean([truth[list(o[:k])].min() for o in orders]) - truth.min()
    mean = np.mean([truth[list(o[:k])].mean() for o in orders]) - np.sort(truth)[:k].mean()
    assert best_of_k(truth, candidate, k) == pytest.approx(best, abs=1e-12)
    assert mean_of_k(truth, candidate, k) == pytest.approx(mean, abs=1e-12)


def test_many_at_once_equal_one_by_one():
    rng = np.random.default_rng(0)
    truth, candidate = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 3, 8))
    found = regrets(truth, candidate, (1, 3, 5), None)
    for k, (best, mean) in found.items():
        assert best[1, 2] == pytest.approx(best_of_k(truth[1, 2], candidate[1, 2], k))
        assert mean[1, 2] == pytest.approx(mean_of_k(truth[1, 2], candidate[1, 2], k))


def test_ties_broken_at_random_are_right_on_average():
    truth, candidate = np.array([3.0, 0.0, 6.0, 9.0]), np.array([0.0, 1.0, 1.0, 1.0])
    shape = (20_000, 4)
    found = regrets(np.broadcast_to(truth, shape), np.broadcast_to(candidate, shape), (2,), np.random.default_rng(0))
    assert found[2][0].mean() == pytest.approx(best_of_k(truth, candidate, 2), abs=0.05)
    assert found[2][1].mean() == pytest.approx(mean_of_k(truth, candidate, 2), abs=0.05)


def test_a_perfect_choice_costs_exactly_nothing():
    truth = np.random.default_rng(2).normal(size=9) / 3
    for k in range(1, 10):
        assert best_of_k(truth, np.exp(truth), k) == mean_of_k(truth, np.exp(truth), k) == 0.0
