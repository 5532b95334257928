"""The `these_recipes` draws: they cover the expected value of a figure, and collapse only where noise is known."""

import numpy as np
import pytest

from raystudy.compare.agreement import spearman
from raystudy.compare.figures import drawn_figures
from raystudy.compare.generators import named_generator
from raystudy.compare.resampling import draw_expected_scores, interval, reason_against, resample
from raystudy.compare.scores import Scores


def spearman_only(truth, others):
    return {"spearman": spearman(truth, others[0])}


def planted(rng, num_recipes, num_seeds, noise, correlation):
    """Expected scores [side, recipe] and the Scores observed of them."""
    first, second = rng.standard_normal((2, num_recipes))
    expected = np.stack([first, correlation * first + np.sqrt(1 - correlation**2) * second])
    names = tuple(f"r{i:02d}" for i in range(num_recipes))
    sides = [
        Scores(name, names, mu[:, None] + noise * rng.standard_normal((num_recipes, num_seeds)) + rng.normal())
        for name, mu in zip(("truth", "candidate"), expected, strict=True)
    ]
    return expected, sides


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
@pytest.mark.parametrize(("num_recipes", "num_seeds", "noise"), [(8, 2, 1.0), (8, 3, 0.2), (20, 2, 0.2)])
def test_the_interval_covers_the_expected_spearman(num_recipes, num_seeds, noise, correlation):
    rng = np.random.default_rng(3)
    repeats, covered = 80, 0
    for _ in range(repeats):
        expected, sides = planted(rng, num_recipes, num_seeds, noise, correlation)
        fresh = expected[:, None] + noise / np.sqrt(num_seeds) * rng.standard_normal((2, 500, num_recipes))
        target = spearman(fresh[0], fresh[1]).mean()
        found = interval(resample(sides, spearman_only, rng, 200)["spearman"])
        covered += found.low <= target <= found.high
    # 200 repeats of each of 36 settings gave .905 to .99; 80 repeats at .95 have a standard error of .024.
    assert covered / repeats >= 0.84


def test_a_plain_bootstrap_of_noisy_means_would_sit_lower():
    rng = np.random.default_rng(0)
    _, sides = planted(rng, 20, 2, 1.0, 1.0)
    ours = resample(sides, spearman_only, rng, 500)["spearman"].mean()
    noisy = [side.means() + rng.standard_normal((500, 20)) / np.sqrt(2) for side in sides]
    assert ours > spearman(noisy[0], noisy[1]).mean()


def test_draws_shrink_towards_the_mean_by_the_share_of_noise():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(400, 2)) * np.sqrt(2.0)
    drawn = draw_expected_scores(means, np.full((300, 2), 1.0), rng)
    # Observed variance 2 of which noise is 1: the posterior mean keeps half, and draws have the true variance.
    centred = means - means.mean(axis=0)
    kept = (drawn.mean(axis=0) - means.mean(axis=0)) / centred
    assert np.median(kept) == pytest.approx(0.5, abs=0.08)
    assert drawn.var(axis=1).mean() == pytest.approx(1.0, abs=0.15)


def test_scores_without_noise_give_the_point_itself_even_with_ties():
    names = tuple("abcde")
    truth = Scores("t", names, np.arange(5.0)[:, None], noise_free=True)
    candidate = Scores("c", names, np.array([[1.0], [1.0], [2.0], [5.0], [4.0]]), noise_free=True)
    assert reason_against([truth, candidate]) is None
    rng = np.random.default_rng(0)
    draws = resample([truth, candidate], lambda t, c: drawn_figures(t, c[0], None, rng), rng, 50)
    point = float(spearman(truth.means(), candidate.means()))
    found = interval(draws["spearman"])
    assert (found.low, found.high) == (pytest.approx(point), pytest.approx(point))


def test_identical_protocols_without_noise_do_not_break_the_algebra():
    names = tuple("abcdef")
    copies = np.repeat(np.arange(6.0)[:, None], 2, axis=1)
    sides = [Scores(name, names, copies) for name in ("t", "c")]
    draws = resample(sides, spearman_only, np.random.default_rng(0), 50)["spearman"]
    assert draws == pytest.approx(1.0)


def test_equal_truths_are_drawn_without_a_warning():
    names = tuple("abcdef")
    rng = np.random.default_rng(0)
    truth, candidate = Scores("t", names, np.ones((6, 2))), Scores("c", names, rng.normal(size=(6, 2)))
    assert interval(resample([truth, candidate], spearman_only, rng, 50)["spearman"]) is None


@pytest.mark.parametrize(
    ("num_recipes", "num_seeds", "num_candidates", "words"),
    [(3, 2, 1, "4 recipes or more"), (4, 2, 2, "5 recipes or more"), (6, 1, 1, "two seeds or more")],
)
def test_too_little_for_an_interval_is_said(num_recipes, num_seeds, num_candidates, words):
    names = tuple(f"r{i}" for i in range(num_recipes))
    values = np.random.default_rng(0).normal(size=(num_recipes, num_seeds))
    reason = reason_against([Scores("s", names, values)] * (1 + num_candidates))
    assert reason is not None
    assert words in reason


def test_a_named_generator_depends_on_every_name_and_on_nothing_else():
    first = named_generator(0, "a", "bc").integers(0, 2**62)
    assert first == named_generator(0, "a", "bc").integers(0, 2**62)
    # Pinned: a process, machine or release that gives another number would move every interval.
    assert first == 3795364666690208429
    for other in (named_generator(1, "a", "bc"), named_generator(0, "ab", "c"), named_generator(0, "a")):
        assert other.integers(0, 2**62) != first
