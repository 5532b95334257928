"""The `these_recipes` interval: would the same recipes come out the same with other seeds?

Recipes are fixed, seeds are drawn anew at the same numbers, and what is covered is the EXPECTED VALUE of a
figure under that. A bootstrap of noisy means adds the seed noise a second time and sits too low; shrinking
truth and candidate one by one loses their correlation and sits too low as well. So their expected scores are
drawn jointly from the posterior of a normal-normal model. Knows nothing about which figure is computed from a
draw, nor about documents.

Model of the observed means of p protocols (the truth first): x_i = mu_i + e_i, mu_i ~ N(m, Sigma),
e_i ~ N(0, D) with D diagonal, D_j = sigma_j^2 / k_j for k_j seeds. The noise of truth and candidates is taken
as independent; two candidates of the same model that share seeds are treated so too, which widens the interval
of their difference if their noise is in fact positively correlated.

Coverage of the expected figure, measured over 36 settings (8 and 20 recipes, 2 and 3 seeds, noise 0.2 and 1 of the
spread of recipes, true correlation .5, .9, 1): .89 to 1.00, lowest where the true correlation is 1 and cannot be
exceeded by a draw. The interval is not centred on the observed value: with loud noise an observed best-of-k
regret is often exactly 0 while its expected value never is. Where it would leave the observed value out it is
widened to hold it, since nobody could read it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raystudy.compare.noise import SeedNoise, seed_noise
from raystudy.compare.scores import FloatArray, Scores

# Fresh noise per draw: its share of the noise variance that is left in a draw's expected figure is 1/16.
NUM_NOISE_DRAWS = 16
MIN_RECIPES = 4
# Numbers per temporary array (recipes x draws): 16 MB of float64.
_CHUNK_NUMBERS = 2_000_000
# A zero noise variance, relative to the variance between recipes, so that the algebra below has an inverse.
_VARIANCE_FLOOR = 1e-10

Evaluate = Callable[[FloatArray, Sequence[FloatArray]], Mapping[str, FloatArray]]


@dataclass(frozen=True)
class Interval:
    """A 95% interval in the unit of its figure."""

    low: float
    high: float

    def holding(self, value: float) -> Interval:
        """This interval, widened to hold the observed `value`; it then covers no less."""
        return Interval(min(self.low, value), max(self.high, value))

    def as_json(self) -> dict[str, float]:
        """The form in which it is stored."""
        return {"low": self.low, "high": self.high}


def reason_against(protocols: Sequence[Scores]) -> str | None:
    """Why these protocols (truth first, same recipes, no value missing) allow no interval; None if they do."""
    num_recipes, num_protocols = len(protocols[0].recipes), len(protocols)
    # n - 1 >= p + 1: the drawn covariance has n - 1 degrees of freedom for p protocols.
    least = max(MIN_RECIPES, num_protocols + 2)
    if num_recipes < least:
        left = "1 is" if num_recipes == 1 else f"{num_recipes} are"
        return f"an interval needs {least} recipes or more, and {left} left"
    if any(scores.num_seeds < 2 and not scores.noise_free for scores in protocols):
        return "an interval needs two seeds or more on both sides"
    num_infinite = sum(int(np.isinf(scores.values).sum()) for scores in protocols)
    if num_infinite:
        return f"an interval needs finite scores, and {num_infinite} candidate run(s) diverged"
    return None


def resample(
    protocols: Sequence[Scores], evaluate: Evaluate, generator: np.random.Generator, resamples: int
) -> dict[str, FloatArray]:
    """Draws of every figure's expected value, figure name to [resample].

    `protocols` holds the truth first, all over the same recipes and without a `reason_against`. `evaluate`
    gets the truth and the candidates as arrays [draw, noise draw, recipe] and returns figures [draw, noise
    draw]. Noise is drawn anew for the truth at all its seeds and for a candidate at its advertised number of
    runs.
    """
    noises = [noise for noise in map(seed_noise, protocols) if noise is not None]
    means = np.stack([scores.means() for scores in protocols], axis=1)
    run_variances = np.stack([_draw_variance(noise, generator, resamples) for noise in noises], axis=1)
    num_seeds = np.array([scores.num_seeds for scores in protocols])
    expected = draw_expected_scores(means, run_variances / num_seeds, generator)

    runs = np.array([protocols[0].num_seeds, *(scores.runs_averaged for scores in protocols[1:])])
    deviations = np.sqrt(run_variances / runs)
    num_recipes = means.shape[0]
    chunk = max(1, _CHUNK_NUMBERS // (NUM_NOISE_DRAWS * num_recipes))
    parts: dict[str, list[FloatArray]] = {}
    for start in range(0, resamples, chunk):
        part = slice(start, start + chunk)
        # [protocol, draw, noise draw, recipe]
        centre = np.moveaxis(expected[part], 2, 0)[:, :, None, :]
        scale = deviations[part].T[:, :, None, None]
        shape = (*centre.shape[:2], NUM_NOISE_DRAWS, num_recipes)
        drawn = centre + scale * generator.standard_normal(shape)
        for name, values in evaluate(drawn[0], list(drawn[1:])).items():
            parts.setdefault(name, []).append(_mean_of_defined(values))
    return {name: np.concatenate(values) for name, values in parts.items()}


def interval(draws: FloatArray) -> Interval | None:
    """2.5th and 97.5th percentile of [resample]; None if no draw is defined."""
    defined = draws[~np.isnan(draws)]
    if defined.size == 0:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))


def draw_expected_scores(means: FloatArray, noise: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Posterior draws of the expected scores mu, [resample, recipe, protocol].

    `means` is [recipe, protocol], `noise` the drawn variances D of these means, [resample, protocol]. The
    total covariance is drawn from its inverse-Wishart posterior with n - 1 degrees of freedom (Gelman et al.,
    Bayesian Data Analysis, 3.6), and Sigma is that less D with negative parts set to zero in the metric of D
    (the maximum-likelihood projection of Anderson 1986). The posterior of m is not drawn: it moves all
    recipes alike, and no figure sees that.
    """
    resamples, num_protocols = noise.shape
    centred = means - means.mean(axis=0)
    scale = centred.std(axis=0, ddof=1)
    scale = np.where(scale > 0.0, scale, 1.0)
    standard = centred / scale
    total = _draw_covariance(standard, generator, resamples)

    # In units in which D is the identity, the eigenvalues of the total covariance are 1 + those of Sigma.
    root = np.sqrt(np.maximum(noise / scale**2, _VARIANCE_FLOOR))
    eigenvalues, vectors = np.linalg.eigh(total / (root[:, :, None] * root[:, None, :]))
    signal = np.maximum(eigenvalues - 1.0, 0.0)
    # Along an eigenvector the posterior given x has mean kept * x and variance kept.
    kept = signal / (signal + 1.0)
    whitened = np.einsum("np,rp,rpq->rnq", standard, 1.0 / root, vectors)
    jitter = generator.standard_normal((resamples, standard.shape[0], num_protocols))
    along = kept[:, None, :] * whitened + np.sqrt(kept)[:, None, :] * jitter
    drawn = np.einsum("rnq,rpq->rnp", along, vectors) * root[:, None, :] * scale + means.mean(axis=0)
    # The floor above may not break the ties of scores that are known exactly.
    return np.where((noise == 0.0)[:, None, :], means, drawn)


def _draw_covariance(standard: FloatArray, generator: np.random.Generator, resamples: int) -> FloatArray:
    """Inverse-Wishart(n - 1, scatter) draws [resample, protocol, protocol], `standard` centred [recipe, protocol]."""
    num_recipes, num_protocols = standard.shape
    dof = num_recipes - 1
    values, vectors = np.linalg.eigh(standard.T @ standard)
    # A symmetric root: two identical protocols have a singular scatter, without a Cholesky factor.
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # Bartlett (1933): T T' is Wishart(dof, I) for T lower triangular, chi on the diagonal, normal below it.
    bartlett = np.tril(generator.standard_normal((resamples, num_protocols, num_protocols)), k=-1)
    diagonal = np.arange(num_protocols)
    bartlett[:, diagonal, diagonal] = np.sqrt(generator.chisquare(dof - diagonal, size=(resamples, num_protocols)))
    half = root @ np.swapaxes(np.linalg.inv(bartlett), 1, 2)
    covariance: FloatArray = half @ np.swapaxes(half, 1, 2)
    return covariance


def _draw_variance(noise: SeedNoise, generator: np.random.Generator, resamples: int) -> FloatArray:
    """Posterior draws of one run's noise variance, dof * s^2 / chi2(dof), [resample]."""
    if noise.variance == 0.0:
        return np.zeros(resamples)
    return noise.dof * noise.variance / generator.chisquare(noise.dof, size=resamples)


def _mean_of_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    mean: FloatArray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
