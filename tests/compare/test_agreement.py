"""Agreement figures against scipy, against cases worked by hand, and against their laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raystudy.compare.agreement import decision_accuracy, kendall_tau_b, pearson, spearman

whole_scores = st.integers(3, 9).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2)])
)


@given(whole_scores)
@settings(max_examples=80, deadline=None)
def test_correlations_with_ties_are_those_of_scipy(pair):
    truth, candidate = (np.array(side, dtype=float) for side in pair)
    if np.ptp(truth) == 0 or np.ptp(candidate) == 0:
        for figure in (spearman, kendall_tau_b, pearson):
            assert np.isnan(figure(truth, candidate))
        return
    assert spearman(truth, candidate) == pytest.approx(stats.spearmanr(truth, candidate).statistic, abs=1e-12)
    assert kendall_tau_b(truth, candidate) == pytest.approx(stats.kendalltau(truth, candidate).statistic, abs=1e-12)
    assert pearson(truth, candidate) == pytest.approx(stats.pearsonr(truth, candidate).statistic, abs=1e-12)


def test_decision_accuracy_counts_a_tied_candidate_half_and_skips_tied_truth():
    truth = np.array([1.0, 2.0, 2.0, 3.0])
    candidate = np.array([1.0, 1.0, 5.0, 4.0])
    # Pairs 12: tie, .5; 13: 1; 14: 1; 23: truth tied, skipped; 24: 1; 34: wrong, 0. So 3.5 of 5.
    assert decision_accuracy(truth, candidate) == 3.5 / 5


def test_decision_accuracy_over_chosen_pairs_counts_those_only():
    truth, candidate = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    # Pairs in order 12, 13, 23; the last is wrong.
    assert decision_accuracy(truth, candidate, np.array([True, False, True])) == 0.5
    assert np.isnan(decision_accuracy(truth, candidate, np.zeros(3, dtype=bool)))


def test_decision_accuracy_without_a_pair_of_different_truth_is_undefined():
    assert np.isnan(decision_accuracy(np.ones(3), np.array([1.0, 2.0, 3.0])))


def test_diverged_scores_rank_as_tied_worst():
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    diverged, tied_worst = np.array([1.0, 2.0, np.inf, np.inf]), np.array([1.0, 2.0, 9.0, 9.0])
    for figure in (spearman, kendall_tau_b, decision_accuracy):
        assert figure(truth, diverged) == figure(truth, tied_worst)
    assert np.isnan(pearson(truth, diverged))


def test_equal_scores_with_a_rounded_mean_have_no_correlation():
    assert np.isnan(pearson(np.full(3, 0.1), np.array([1.0, 2.0, 4.0])))


def test_batches_broadcast_and_equal_their_members():
    rng = np.random.default_rng(0)
    truth, candidates = rng.integers(0, 5, 6).astype(float), rng.integers(0, 5, (2, 3, 6)).astype(float)
    for figure in (spearman, kendall_tau_b, pearson, decision_accuracy):
        together = figure(truth, candidates)
        assert together.shape == (2, 3)
        assert together[1, 2] == figure(truth, candidates[1, 2])


def test_the_same_order_is_one_and_the_reverse_minus_one():
    truth = np.random.default_rng(1).normal(size=7)
    for figure in (spearman, kendall_tau_b, decision_accuracy):
        assert figure(truth, np.exp(truth)) == 1.0
    assert spearman(truth, -truth) == kendall_tau_b(truth, -truth) == -1.0
    assert decision_accuracy(truth, -truth) == 0.0
