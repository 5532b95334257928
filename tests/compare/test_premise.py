"""Does tuning reorder the recipes: planted answers, the interaction test, and what cannot be said."""

import json

import numpy as np
import pytest

from raystudy.compare.premise import premise
from raystudy.compare.sweep_noise import interaction_test, sweep_noise
from raystudy.errors import DataError

LRS = [1e-3, 3e-3, 1e-2]
NAMES = [f"r{i}" for i in range(5)]


def sweep(lift, *, noise=0.001, seeds=2, stream=0):
    """[recipe, lr, seed]: recipe i loses i / 10, the middle LR is best by .5, `lift` [recipe, lr] is added."""
    rng = np.random.default_rng(stream)
    cells = np.arange(5)[:, None] / 10 + np.array([0.5, 0.0, 0.5]) + lift
    return cells[:, :, None] + 0.2 * rng.standard_normal((1, 1, seeds)) + noise * rng.standard_normal((5, 3, seeds))


def ask(values, lrs=LRS, recipes=NAMES):
    found = premise(values, lrs, recipes, seed=0, resamples=10)
    json.dumps(found, allow_nan=False)
    return found


def better_when_tuned():
    """The last recipe is worst at the middle LR and best of all at the highest."""
    lift = np.zeros((5, 3))
    lift[4, 2] = -1.2
    return lift


def test_a_recipe_that_wins_only_when_tuned_reorders():
    found = ask(sweep(better_when_tuned()))
    assert (found["outcome"], found["best_fixed_lr"]) == ("reorders", 3e-3)
    # It passes the four others, and no other pair changes.
    assert (found["num_pairs"], found["num_pairs_reversed"], found["num_pairs_reversed_separably"]) == (10, 4, 4)
    assert found["num_recipes_with_another_best_lr"] == 1
    assert found["interaction"]["p_value"] < 1e-6
    assert (found["interaction"]["numerator_dof"], found["interaction"]["denominator_dof"]) == (8, 12)
    # Ranks 1 2 3 4 5 against 2 3 4 5 1: sum of squared differences 20, so 1 - 6 x 20 / (5 x 24) = 0.
    assert found["spearman"]["value"] == pytest.approx(0.0)


def test_the_same_best_lr_for_all_does_not_reorder():
    found = ask(sweep(0.0))
    assert (found["outcome"], found["num_pairs_reversed"], found["spearman"]["value"]) == ("does-not-reorder", 0, 1.0)


def test_a_reversed_near_tie_among_clear_pairs_does_not_reorder():
    cells = np.arange(5)[:, None] / 10 + np.array([0.5, 0.0, 0.5])
    # The second recipe is a hair behind the first at the fixed LR and a hair ahead at its own best.
    cells[1, :2] = -0.001, 0.001
    noise = np.random.default_rng(0).normal(scale=0.01, size=(5, 3, 1))
    # Two seeds with opposite noise, so that the means are the cells.
    found = ask(cells[:, :, None] + noise * np.array([1.0, -1.0]))
    assert (found["num_pairs_reversed"], found["num_pairs_reversed_separably"]) == (1, 0)
    assert found["outcome"] == "does-not-reorder"


def test_reversals_within_loud_noise_are_undecided():
    found = ask(sweep(better_when_tuned(), noise=2.0, stream=1))
    assert found["num_pairs_reversed"] > 0
    assert (found["outcome"], found["num_pairs_reversed_separably"]) == ("undecided", 0)


def test_one_seed_cannot_tell_a_reversal_from_noise():
    found = ask(sweep(better_when_tuned(), seeds=1))
    assert (found["outcome"], found["interaction"]) == ("undecided", None)
    assert {"outcome", "interaction"} <= {note["field"] for note in found["notes"]}


def test_an_lr_with_a_diverged_run_is_not_the_fixed_one_but_may_be_a_recipes_best():
    values = sweep(better_when_tuned())
    values[0, 2, 1] = np.inf
    values[1, 0, 0] = np.nan
    found = ask(values)
    assert found["best_fixed_lr"] == 3e-3
    assert found["num_recipes_with_another_best_lr"] == 1
    assert found["interaction"] is None
    assert found["outcome"] == "reorders"


def test_without_an_lr_that_every_recipe_survives_nothing_is_said():
    values = sweep(0.0)
    values[0, 0] = values[1, 1] = values[2, 2] = np.inf
    found = ask(values)
    assert (found["outcome"], found["best_fixed_lr"], found["num_pairs_reversed"]) == ("undecided", None, None)


def test_a_recipe_that_never_finished_is_left_out_and_named():
    values = sweep(0.0)
    values[3] = np.nan
    found = ask(values)
    assert found["num_pairs"] == 6
    assert found["notes"][0] == {"field": "r3", "reason": "excluded: no LR at which every run is finite"}


def test_permuting_recipes_and_learning_rates_changes_nothing_digit_for_digit():
    values = sweep(better_when_tuned(), noise=0.3)
    rows, columns = [3, 0, 4, 1, 2], [2, 0, 1]
    shuffled = ask(values[rows][:, columns], [LRS[i] for i in columns], [NAMES[i] for i in rows])
    assert json.dumps(shuffled) == json.dumps(ask(values))


def test_a_wrong_shape_is_refused():
    with pytest.raises(DataError, match=r"\[recipe, lr, seed\]"):
        ask(np.ones((5, 2, 2)))


def test_the_interaction_test_keeps_its_level_when_seeds_move_each_lr():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        shape = rng.normal(size=(6, 1, 1)) + rng.normal(size=(1, 4, 1)) + rng.normal(size=(1, 4, 2))
        p_values.append(interaction_test(shape + rng.normal(size=(6, 4, 2)))["p_value"])
    # 5% of 300 is 15, with a standard deviation of 3.8.
    assert 4 <= sum(p < 0.05 for p in p_values) <= 27


def test_what_a_seed_does_to_one_lr_counts_between_lrs_only():
    rng = np.random.default_rng(0)
    values = 3.0 * rng.normal(size=(1, 20, 5)) + rng.normal(size=(40, 20, 5))
    noise = sweep_noise(values)
    assert noise is not None
    assert noise.within_variance == pytest.approx(1.0, abs=0.1)
    assert noise.across_variance == pytest.approx(10.0, rel=0.4)
    assert noise.across_dof < noise.within_dof
    assert sweep_noise(values[:, :, :1]) is None
