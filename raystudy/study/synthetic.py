"""What follows from synthetic domains without training: moments of a mixture, and the best achievable loss.

A recipe's data as a random-feature model sees them are taken as one normal distribution with the mixture's second
moments (the Gaussian equivalent of the mixture). Features are z = Px with P normal of variance 1 / features, so that
the mean of |z|^2 is the covariance's trace. Derived in docs/theory.md. Knows nothing of runs or storage.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raystudy.specs.recipe import Recipe, SyntheticRecipe, SyntheticSource
from raystudy.specs.study import StudySpec
from raystudy.specs.synthetic import Domain, SyntheticData, mixture

FloatArray = npt.NDArray[np.float64]
_SIGNS, _SHIFT, _FEATURES = 1, 2, 3  # purposes of random streams


def data_of(study: StudySpec, recipe: Recipe) -> SyntheticData:
    """The data of a synthetic recipe of the study, whose check has made sure that its domains are there."""
    assert study.synthetic is not None
    assert isinstance(recipe, SyntheticRecipe)
    return mixture(study.synthetic, dict(recipe.weights))


def validation_data(study: StudySpec, validation: str) -> SyntheticData:
    """The domain on which a validation set of the study measures, as data."""
    assert study.synthetic is not None
    source = study.validation[validation].source
    assert isinstance(source, SyntheticSource)
    return mixture(study.synthetic, {source.domain: 1.0})


def eigenvalues(domain: Domain, inputs: int) -> FloatArray:
    """Of the domain's input covariance, [inputs], descending; their sum is `gain`."""
    powers = np.arange(1, inputs + 1, dtype=np.float64) ** -domain.exponent
    scaled: FloatArray = domain.gain * powers / powers.sum()
    return scaled


def teachers(data: SyntheticData) -> FloatArray:
    """The teacher of every domain, [domain, inputs].

    The common one has theta_j^2 lambda_j ~ j^-2 with lambda of the first domain and a signal variance of 1 there;
    its signs, and the shift of each domain, are drawn from `data.draw` and the domain's place.
    """
    first = eigenvalues(data.domains[0], data.inputs)
    power = np.arange(1, data.inputs + 1, dtype=np.float64) ** -2.0
    signs = np.random.default_rng((data.draw, _SIGNS)).choice([-1.0, 1.0], size=data.inputs)
    common = signs * np.sqrt(power / power.sum() / first)
    shifts = [
        domain.teacher_shift * np.random.default_rng((data.draw, _SHIFT, place)).standard_normal(data.inputs)
        for place, domain in enumerate(data.domains)
    ]
    return np.stack([common + np.abs(common) * shift for shift in shifts])


def best_achievable_loss(data: SyntheticData, validation: SyntheticData) -> float:
    """Expected squared error on `validation` of the linear predictor that is best on `data`, without features.

    That predictor is sum_k p_k S_k theta_k over sum_k p_k S_k, coordinate by coordinate, as all covariances are
    diagonal: the limit of infinite width and steps. Closed form.
    """
    covariances = np.stack([eigenvalues(domain, data.inputs) for domain in data.domains])
    weighted = np.asarray(data.weights)[:, None] * covariances
    with np.errstate(invalid="ignore", divide="ignore"):
        learned = (weighted * teachers(data)).sum(axis=0) / weighted.sum(axis=0)
    held = np.asarray(validation.weights)
    own = np.stack([eigenvalues(domain, validation.inputs) for domain in validation.domains])
    error = (own * (teachers(validation) - learned) ** 2).sum(axis=1)
    noise = np.array([domain.noise_variance for domain in validation.domains])
    return float((held * (error + noise)).sum())


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of a mixture in feature space: z normal with covariance `h`, and y.

    `h` [features, features] = E zz', `c` [features] = E zy, `power` = E y^2.
    """

    h: FloatArray
    c: FloatArray
    power: float

    def loss(self, weights: FloatArray) -> FloatArray:
        """E (y - w'z)^2 of heads `weights` [..., features], [...]."""
        quadratic = np.einsum("...a,ab,...b->...", weights, self.h, weights)
        loss: FloatArray = self.power - 2.0 * weights @ self.c + quadratic
        return loss


def projection(inputs: int, features: int, draw: int) -> FloatArray:
    """P of the random features number `draw`, [features, inputs]: normal, of variance 1 / features."""
    normal = np.random.default_rng((draw, _FEATURES, features, inputs)).standard_normal((features, inputs))
    scaled: FloatArray = normal / np.sqrt(features)
    return scaled


@lru_cache(maxsize=256)
def moments(data: SyntheticData, features: int, draw: int) -> Moments:
    """Moments of `data` seen through the random features number `draw`."""
    seen = projection(data.inputs, features, draw)
    theta = teachers(data)
    h, c, power = np.zeros((features, features)), np.zeros(features), 0.0
    for weight, domain, teacher in zip(data.weights, data.domains, theta, strict=True):
        covariance = weight * eigenvalues(domain, data.inputs)
        h += (seen * covariance) @ seen.T
        c += seen @ (covariance * teacher)
        power += float((covariance * teacher**2).sum()) + weight * domain.noise_variance
    return Moments(h, c, power)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The mixture in the eigenbasis of its feature covariance, which is where training is simple.

    `values` [features] descending eigenvalues of h, `vectors` [features, features] in columns (the largest entry of
    each is positive), `best` [features] the coordinates of the best head, `residual` the variance of y - best'z.
    """

    values: FloatArray
    vectors: FloatArray
    best: FloatArray
    residual: float

    def head(self, difference: FloatArray) -> FloatArray:
        """Heads [..., features] from coordinates of (best - head) in the eigenbasis."""
        return (self.best - difference) @ self.vectors.T


@lru_cache(maxsize=256)
def spectrum(data: SyntheticData, features: int, draw: int) -> Spectrum:
    """Eigenbasis of `moments(data, features, draw)`."""
    own = moments(data, features, draw)
    values, vectors = np.linalg.eigh(own.h)
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(features)]
    vectors = np.ascontiguousarray(vectors * np.sign(largest))
    best = (vectors.T @ own.c) / values
    return Spectrum(values, vectors, best, float(own.power - (values * best**2).sum()))


def gradient_alignment(data: SyntheticData, validation: SyntheticData, features: int, draw: int) -> float:
    """Inner product of the gradients of half the loss on `data` and on `validation` at a head of zero."""
    return float(moments(data, features, draw).c @ moments(validation, features, draw).c)
