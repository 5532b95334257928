"""The `recipes_like_these` interval: whole families, no pair of a recipe with itself, covers the expected figure."""

import numpy as np
import pytest

from raystudy.compare.entries import comparison_entries
from raystudy.compare.figures import point_figures
from raystudy.compare.like_these import _Weighted, likes_intervals, reason_against_likes
from raystudy.compare.scores import Scores

FIGURES = ("spearman", "kendall_tau_b", "pearson", "decision_accuracy", "separable_decision_accuracy")


def draw(rng, num_families, size, noise, correlation, seeds=2):
    """Truth and candidate of recipes in families, of which the family makes four fifths of the variance."""
    family = np.repeat(np.arange(num_families), size)
    first, second = (
        np.sqrt(0.8) * rng.standard_normal(num_families)[family] + np.sqrt(0.2) * rng.standard_normal(family.size)
        for _ in range(2)
    )
    names = tuple(f"r{i:02d}" for i in range(family.size))
    expected = (first, correlation * first + np.sqrt(1 - correlation**2) * second)
    sides = [
        Scores(name, names, mu[:, None] + noise * rng.standard_normal((family.size, seeds)), runs_per_score=runs)
        for name, mu, runs in zip(("truth", "candidate"), expected, (None, 1), strict=True)
    ]
    return [f"f{i}" for i in family], sides


def test_weights_of_one_give_the_figures_themselves_and_a_copy_counts_as_a_tie():
    rng = np.random.default_rng(0)
    _, (truth, candidate) = draw(rng, 9, 1, 0.3, 0.8)
    separable = rng.random(36) < 0.6
    weighted = _Weighted(truth.means(), candidate.groups(), separable)
    assert weighted.figures(np.ones((1, 9))) == pytest.approx(
        {k: v for k, v in point_figures(truth.means(), candidate.groups(), separable).items() if k in FIGURES}
    )
    counts = np.array([3, 0, 1, 2, 1, 1, 0, 1, 0])
    copies = np.repeat(np.arange(9), counts)
    expected = point_figures(truth.means()[copies], candidate.groups()[:, copies], None)
    found = weighted.figures(counts[None].astype(float))
    for name in FIGURES[:4]:
        assert found[name][0] == pytest.approx(expected[name]), name


@pytest.mark.parametrize(("num_families", "size"), [(8, 1), (8, 3), (20, 1)])
@pytest.mark.parametrize(("correlation", "noise"), [(0.5, 0.2), (0.9, 1.0)])
def test_the_interval_covers_the_expected_figure(num_families, size, correlation, noise):
    rng = np.random.default_rng(1)
    settings = (num_families, size, noise, correlation)
    several = [draw(rng, *settings)[1] for _ in range(300)]
    target = np.mean([point_figures(t.means(), c.groups(), None)["spearman"] for t, c in several])
    covered = 0
    for _ in range(80):
        families, (truth, candidate) = draw(rng, *settings)
        found = likes_intervals(truth, candidate, families, None, rng, 200)["spearman"]
        covered += found.low <= target <= found.high
    # docs/log.md: 400 repeats gave .90 and more; 80 repeats at .95 have a standard error of .024.
    assert covered / 80 >= 0.84


def test_members_of_a_family_are_drawn_together():
    rng = np.random.default_rng(2)
    families, (truth, candidate) = draw(rng, 8, 3, 0.1, 0.9)
    seen = []

    class Spy(np.random.Generator):
        def multinomial(self, n, p, size):
            counts = super().multinomial(n, p, size=size)
            seen.append(counts)
            return counts

    together = likes_intervals(truth, candidate, families, None, Spy(np.random.PCG64(0)), 300)["pearson"]
    alone = likes_intervals(truth, candidate, list(truth.recipes), None, np.random.default_rng(0), 300)["pearson"]
    assert all((counts.shape[1], set(counts.sum(axis=1))) == (8, {8}) for counts in seen)
    assert together.high - together.low > alone.high - alone.low


def test_one_seed_is_enough_but_seven_families_are_not():
    rng = np.random.default_rng(3)
    for size, kept in ((8, True), (7, False)):
        _, (truth, candidate) = draw(rng, size, 1, 0.3, 0.7, seeds=1)
        settings = {"metric": "m", "recipes": truth.recipes, "subsets": {}, "seed": 0, "resamples": 200}
        entry = comparison_entries(truth, [candidate], **settings)[0]
        assert entry["spearman"]["these_recipes"] is None
        assert (entry["spearman"]["recipes_like_these"] is not None) == kept
        assert all(f["recipes_like_these"] is None for kinds in entry["regret"].values() for f in kinds.values())
        reasons = {note["field"]: note["reason"] for note in entry["notes"]}
        assert ("needs 8 families of recipes or more, and 7 are left" in reasons.get("recipes_like_these", "")) != kept
    ladder = dict.fromkeys(truth.recipes, "ladder")
    assert comparison_entries(truth, [candidate], **settings, families=ladder)[0]["spearman"]["value"] is not None
    assert "1 is left" in str(reason_against_likes(list(ladder.values()), [candidate]))


def test_where_every_resample_agrees_there_is_no_interval_but_a_reason():
    names = tuple("abcdefgh")
    truth = Scores("t", names, np.arange(8.0)[:, None])
    settings = {"metric": "m", "recipes": names, "subsets": {}, "seed": 0, "resamples": 200}
    entry = comparison_entries(truth, [Scores("c", names, truth.values)], **settings)[0]
    assert (entry["spearman"]["value"], entry["spearman"]["recipes_like_these"]) == (1.0, None)
    reasons = {note["field"]: note["reason"] for note in entry["notes"]}
    assert "every resample of families gives the same value" in reasons["spearman.recipes_like_these"]
