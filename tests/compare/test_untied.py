"""The fast way for draws without ties gives what the definitions give, and steps aside for ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystudy.compare.agreement import decision_accuracy, kendall_tau_b, spearman
from raystudy.compare.figures import agreement_figures
from raystudy.compare.untied import untied_ranks


@given(st.integers(3, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_the_fast_way_is_the_slow_way(num_recipes, seed, with_ties):
    rng = np.random.default_rng(seed)
    truth, candidate = rng.standard_normal((2, 3, 4, num_recipes))
    if with_ties:
        candidate = np.round(candidate)
    separable = rng.random(num_recipes * (num_recipes - 1) // 2) < 0.5
    found = agreement_figures(truth, candidate, separable)
    np.testing.assert_allclose(found["spearman"], spearman(truth, candidate), atol=1e-12)
    np.testing.assert_allclose(found["kendall_tau_b"], kendall_tau_b(truth, candidate), atol=1e-12)
    np.testing.assert_allclose(found["decision_accuracy"], decision_accuracy(truth, candidate), atol=1e-12)
    if separable.any():
        slow = decision_accuracy(truth, candidate, separable)
        np.testing.assert_allclose(found["separable_decision_accuracy"], slow, atol=1e-12)


@pytest.mark.parametrize("num_recipes", [2, 256, 257, 300])
def test_counts_do_not_wrap_round(num_recipes):
    truth = np.arange(float(num_recipes))[None, :]
    found = agreement_figures(truth, -truth, np.ones(num_recipes * (num_recipes - 1) // 2, dtype=bool))
    assert found["decision_accuracy"] == found["separable_decision_accuracy"] == 0.0
    assert found["kendall_tau_b"] == -1.0 or num_recipes == 2


def test_ties_and_infinities_are_left_to_the_definitions():
    assert untied_ranks(np.array([[1.0, 1.0, 2.0]])) is None
    assert untied_ranks(np.array([[1.0, np.inf, np.inf]])) is None
    assert untied_ranks(np.array([[1.0, np.inf, -3.0]])).T.tolist() == [[1, 2, 0]]
