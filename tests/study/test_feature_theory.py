"""The exact recursion of random-feature training against simulations, limits and numeric minimisation."""

import numpy as np
import pytest
from scipy import optimize, stats

from raystudy.specs.synthetic import Domain, SyntheticData, SyntheticDomains, mixture
from raystudy.study.feature_predictions import (
    draw_losses,
    exact_agreement,
    flipped_pairs,
    one_step_changes,
    predicted_agreement,
)
from raystudy.study.feature_theory import head_moments
from raystudy.study.synthetic import (
    best_achievable_loss,
    eigenvalues,
    gradient_alignment,
    moments,
    projection,
    spectrum,
    teachers,
)

FEATURES, DRAW, BATCH = 6, 3, 2
DOMAINS = SyntheticDomains(
    inputs=12,
    draw=5,
    domains={
        "target": Domain(exponent=1.2),
        "flat": Domain(exponent=0.5, gain=0.5, noise_variance=0.3),
        "off": Domain(exponent=1.2, gain=2.0, noise_variance=0.5, teacher_shift=0.6),
    },
)
TARGET = mixture(DOMAINS, {"target": 1.0})
RECIPES = [
    mixture(DOMAINS, {"target": 0.4, "flat": 0.6}),
    mixture(DOMAINS, {"target": 0.3, "off": 0.7}),
    mixture(DOMAINS, {"flat": 0.2, "target": 0.2, "off": 0.6}),
    mixture(DOMAINS, {"target": 0.9, "off": 0.1}),
]
VALIDATION = moments(TARGET, FEATURES, DRAW)
SPECTRA = [spectrum(data, FEATURES, DRAW) for data in RECIPES]


def simulate(data: SyntheticData, rates: np.ndarray, averaged: int, runs: int, generator: np.random.Generator):
    """Heads [run, features] of plain SGD in feature space, written without the eigenbasis."""
    own = moments(data, FEATURES, DRAW)
    root = np.linalg.cholesky(own.h)
    best = np.linalg.solve(own.h, own.c)
    noise = np.sqrt(own.power - own.c @ best)
    head, total = np.zeros((runs, FEATURES)), np.zeros((runs, FEATURES))
    for step, rate in enumerate(rates):
        z = generator.standard_normal((runs, BATCH, FEATURES)) @ root.T
        y = z @ best + noise * generator.standard_normal((runs, BATCH))
        error = y - np.einsum("rbf,rf->rb", z, head)
        head = head + rate / BATCH * np.einsum("rb,rbf->rf", error, z)
        if step >= len(rates) - averaged:
            total += head
    return total / averaged


def z_scores(samples: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (samples.mean(axis=0) - expected) / (samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))


@pytest.mark.parametrize(("decays", "averaged"), [(False, 1), (True, 1), (False, 15), (True, 7)])
def test_recursion_gives_the_moments_of_simulated_heads(decays, averaged):
    rates = 0.3 * (np.arange(30, 0, -1) / 30 if decays else np.ones(30))
    heads = head_moments(SPECTRA, BATCH, np.stack([rates, rates / 10]), averaged)
    losses = heads.expected_losses(VALIDATION)
    scores, loss_scores = [], []
    for place, data in enumerate(RECIPES):
        sample = simulate(data, rates, averaged, 12_000, np.random.default_rng((7, place)))
        own = SPECTRA[place]
        difference = own.best - sample @ own.vectors
        products = difference[:, :, None] * difference[:, None, :]
        scores += [z_scores(difference, heads.mean[place, 0]), z_scores(products, heads.second[place, 0]).ravel()]
        loss_scores.append(z_scores(VALIDATION.loss(sample), losses[place, 0]))
    both = np.concatenate(scores)
    assert np.abs(both).max() < 5.0
    assert 0.5 < (both**2).mean() < 1.7
    assert np.abs(loss_scores).max() < 3.5


def test_changing_rates_and_constant_rates_take_one_path():
    constant = np.full((1, 24), 0.2)
    jittered = constant.copy()
    jittered[0, ::2] *= 1 + 1e-13  # the same numbers, but every step is a stretch of its own
    for averaged in (1, 12):
        whole = head_moments(SPECTRA, BATCH, constant, averaged)
        single = head_moments(SPECTRA, BATCH, jittered, averaged)
        np.testing.assert_allclose(single.second, whole.second, rtol=1e-9, atol=1e-12)


def test_no_steps_leave_the_head_at_zero():
    heads = head_moments(SPECTRA, BATCH, np.zeros((1, 0)))
    np.testing.assert_allclose(heads.expected_losses(VALIDATION)[:, 0], VALIDATION.power)
    np.testing.assert_allclose(heads.variances(VALIDATION), 0.0, atol=1e-12)


def test_small_rate_orders_recipes_as_gradient_alignment_does():
    rate, steps = 1e-7, 10
    losses = head_moments(SPECTRA, BATCH, np.full((1, steps), rate)).expected_losses(VALIDATION)[:, 0]
    alignment = np.array([gradient_alignment(data, TARGET, FEATURES, DRAW) for data in RECIPES])
    np.testing.assert_allclose((VALIDATION.power - losses) / (2 * rate * steps), alignment, rtol=1e-4)
    assert exact_agreement(losses[:, None], -alignment)[0] == 1.0


def test_endless_batches_are_gradient_descent():
    heads = head_moments(SPECTRA, 10**12, np.full((1, 40), 0.3))
    for place, data in enumerate(RECIPES):
        own, head = moments(data, FEATURES, DRAW), np.zeros(FEATURES)
        for _ in range(40):
            head = head - 0.3 * (own.h @ head - own.c)
        reached = SPECTRA[place].head(heads.mean[place, 0])
        np.testing.assert_allclose(reached, head, atol=1e-10)
        np.testing.assert_allclose(heads.expected_losses(VALIDATION)[place, 0], VALIDATION.loss(head), atol=1e-9)


def test_rates_above_the_edge_of_stability_are_told_as_infinite():
    heads = head_moments(SPECTRA, BATCH, np.array([[0.1] * 3000, [50.0] * 3000]))
    losses = heads.expected_losses(VALIDATION)
    assert np.isfinite(losses[:, 0]).all()
    assert np.isinf(losses[:, 1]).all()
    assert np.isinf(draw_losses(heads, VALIDATION, 2, np.random.default_rng(0))[..., 1]).all()


def test_averaging_more_steps_than_there_are_is_refused():
    for averaged in (0, 6):
        with pytest.raises(ValueError, match="averaged must lie between 1 and the number of steps 5"):
            head_moments(SPECTRA, BATCH, np.full((1, 5), 0.1), averaged)


def test_order_of_recipes_changes_nothing():
    rates = np.full((2, 20), 0.2) * [[1.0], [0.1]]
    order = [2, 0, 3, 1]
    losses = head_moments(SPECTRA, BATCH, rates).expected_losses(VALIDATION)
    moved = head_moments([SPECTRA[i] for i in order], BATCH, rates).expected_losses(VALIDATION)
    np.testing.assert_allclose(moved, losses[order], rtol=1e-12)


def test_variance_and_drawn_losses_are_those_of_simulated_runs():
    rates = np.full((1, 60), 0.05)
    heads = head_moments(SPECTRA, BATCH, rates)
    drawn = draw_losses(heads, VALIDATION, 20_000, np.random.default_rng(1))[..., 0]
    variances = heads.variances(VALIDATION)[:, 0]
    np.testing.assert_allclose(drawn.var(axis=0), variances, rtol=0.06)
    for place, data in enumerate(RECIPES):
        simulated = VALIDATION.loss(simulate(data, rates[0], 1, 6000, np.random.default_rng((2, place))))
        np.testing.assert_allclose(simulated.var(), variances[place], rtol=0.15)  # heads are normal only nearly


def test_predicted_agreement_is_that_of_single_simulated_runs():
    rates = np.full((1, 60), 0.05)
    truth = np.array([best_achievable_loss(data, TARGET) for data in RECIPES])
    predicted = predicted_agreement(
        head_moments(SPECTRA, BATCH, rates), VALIDATION, truth, np.random.default_rng(3), draws=4000
    )
    runs = [
        VALIDATION.loss(simulate(data, rates[0], 1, 4000, np.random.default_rng((4, place))))
        for place, data in enumerate(RECIPES)
    ]
    measured = np.array([stats.spearmanr(truth, losses).statistic for losses in np.stack(runs, axis=1)])
    assert predicted.spread[0] == pytest.approx(measured.std(), abs=0.05)
    assert predicted.mean[0] == pytest.approx(measured.mean(), abs=0.05)


@pytest.mark.parametrize("data", RECIPES)
def test_best_achievable_loss_is_that_of_the_minimiser_found_by_search(data):
    theta, noise = teachers(data), [domain.noise_variance for domain in data.domains]
    shares = [p * eigenvalues(domain, data.inputs) for p, domain in zip(data.weights, data.domains, strict=True)]

    def loss(w):
        own = sum(float((s * (w - t) ** 2).sum()) for s, t in zip(shares, theta, strict=True))
        return own + float(np.dot(data.weights, noise))

    def slope(w):
        return sum(2 * s * (w - t) for s, t in zip(shares, theta, strict=True))

    curvature = np.diag(2 * sum(shares))
    start, options = np.zeros(data.inputs), {"gtol": 1e-13}
    found = optimize.minimize(loss, start, jac=slope, hess=lambda _: curvature, method="trust-exact", options=options).x
    first = data.domains[0]
    there = float((eigenvalues(first, data.inputs) * (found - theta[0]) ** 2).sum()) + first.noise_variance
    assert best_achievable_loss(data, TARGET) == pytest.approx(there, abs=1e-10)


def test_as_many_features_as_inputs_reach_the_best_achievable_loss():
    for data in RECIPES:
        best = spectrum(data, data.inputs, DRAW)
        reached = moments(TARGET, data.inputs, DRAW).loss(best.vectors @ best.best)
        assert reached == pytest.approx(best_achievable_loss(data, TARGET), abs=1e-7)


def test_moments_are_those_of_samples_of_the_mixture():
    data, generator, samples = RECIPES[2], np.random.default_rng(8), 200_000
    chosen = generator.choice(len(data.weights), size=samples, p=data.weights)
    scale = np.sqrt(np.stack([eigenvalues(domain, data.inputs) for domain in data.domains]))[chosen]
    x = scale * generator.standard_normal((samples, data.inputs))
    noise = np.sqrt([domain.noise_variance for domain in data.domains])[chosen] * generator.standard_normal(samples)
    y = (teachers(data)[chosen] * x).sum(axis=1) + noise
    z = x @ projection(data.inputs, FEATURES, DRAW).T
    own = moments(data, FEATURES, DRAW)
    assert np.abs(z_scores(z[:, :, None] * z[:, None, :], own.h)).max() < 4.5
    assert np.abs(z_scores(z * y[:, None], own.c)).max() < 4.0
    assert abs(z_scores(y[:, None] ** 2, np.array([own.power]))[0]) < 4.0


def test_one_step_changes_the_loss_as_the_formula_says():
    rates, batches = np.array([0.01, 0.5]), 100_000
    head = np.linspace(-0.5, 1.0, FEATURES)
    for place, data in enumerate(RECIPES):
        own, generator = moments(data, FEATURES, DRAW), np.random.default_rng((9, place))
        best = np.linalg.solve(own.h, own.c)
        z = generator.standard_normal((batches, BATCH, FEATURES)) @ np.linalg.cholesky(own.h).T
        y = z @ best + np.sqrt(own.power - own.c @ best) * generator.standard_normal((batches, BATCH))
        steps = np.einsum("nb,nbf->nf", y - z @ head, z) / BATCH
        moved = np.stack([VALIDATION.loss(head + rate * steps) for rate in rates], axis=1) - VALIDATION.loss(head)
        assert np.abs(z_scores(moved, one_step_changes(own, VALIDATION, head, BATCH, rates))).max() < 4.0


def test_one_step_of_the_recursion_is_the_one_step_formula_from_a_head_of_zero():
    rates = np.array([0.01, 0.5])
    losses = head_moments(SPECTRA, BATCH, rates[:, None]).expected_losses(VALIDATION)
    for place, data in enumerate(RECIPES):
        own = moments(data, FEATURES, DRAW)
        changes = one_step_changes(own, VALIDATION, np.zeros(FEATURES), BATCH, rates)
        np.testing.assert_allclose(VALIDATION.power + changes, losses[place], rtol=1e-10)


def test_a_pair_flips_when_two_rates_order_it_oppositely():
    first, second = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    assert flipped_pairs(first, second).tolist() == [False, False, True]
    assert not flipped_pairs(first, np.ones(3)).any()
