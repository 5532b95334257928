"""The `recipes_like_these` interval: would other recipes of this kind, and other seeds, come out alike?

Whole families of recipes are resampled with their observed scores. A recipe brings the noise of its own seeds along,
so one resampling draws recipes and seeds anew and adds no noise to what the scores already hold; what a seed does to
all recipes cancels in every figure. Copies of one recipe tie with each other on both sides, so a pair of a recipe
with itself counts in no figure. Knows nothing about regret: a resample often lacks the best recipe, so a regret or
top-k interval made this way would mean nothing.

The percentiles are widened for the small number of families (Hesterberg 2015, "What teachers should know about the
bootstrap", expanded percentile interval). docs/log.md holds the coverage that was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from raystudy.compare.resampling import Interval
from raystudy.compare.scores import BoolArray, FloatArray, Scores

MIN_FAMILIES = 8
# Numbers per temporary array (recipes x resamples): 16 MB of float64.
_CHUNK_NUMBERS = 2_000_000


def reason_against_likes(families: Sequence[str], scores: Sequence[Scores]) -> str | None:
    """Why these families, one name per recipe, allow no interval; None if they do."""
    count = len(set(families))
    if count < MIN_FAMILIES:
        left = "1 is" if count == 1 else f"{count} are"
        return f"an interval for recipes like these needs {MIN_FAMILIES} families of recipes or more, and {left} left"
    num_infinite = sum(int(np.isinf(side.values).sum()) for side in scores)
    if num_infinite:
        return f"an interval for recipes like these needs finite scores, and {num_infinite} candidate run(s) diverged"
    return None


def likes_intervals(
    truth: Scores,
    candidate: Scores,
    families: Sequence[str],
    separable: BoolArray | None,
    generator: np.random.Generator,
    resamples: int,
) -> dict[str, Interval]:
    """The 95% interval of each agreement for recipes drawn like these; none where no resample has a spread.

    `truth` and `candidate` have the same recipes and finite scores only; `families` holds each recipe's family;
    `separable` is [pair]. Figures of the candidate are means over its scores at the advertised number of runs.
    """
    place = {name: index for index, name in enumerate(sorted(set(families)))}
    member_of = np.array([place[name] for name in families])
    num_families = len(place)
    resampler = _Weighted(truth.means(), candidate.groups(), separable)
    chunk = max(1, _CHUNK_NUMBERS // len(truth.recipes))
    parts: dict[str, list[FloatArray]] = {}
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = generator.multinomial(num_families, np.full(num_families, 1.0 / num_families), size=size)
        for name, values in resampler.figures(counts[:, member_of].astype(np.float64)).items():
            parts.setdefault(name, []).append(values)
    found = {name: _expanded(np.concatenate(values), num_families) for name, values in parts.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _expanded(draws: FloatArray, num_families: int) -> Interval | None:
    """Percentiles at the tail that Student's t with F - 1 degrees of freedom and the factor sqrt(F/(F-1)) give."""
    defined = draws[~np.isnan(draws)]
    if defined.size == 0 or np.ptp(defined) <= 1e-12:
        return None
    reach = np.sqrt(num_families / (num_families - 1)) * stats.t.ppf(0.975, num_families - 1)
    tail = 100.0 * float(stats.norm.sf(reach))
    low, high = np.percentile(defined, [tail, 100.0 - tail])
    return Interval(float(low), float(high))


class _Weighted:
    """Agreements of fixed scores under weights of the recipes, by matrix products over the signs of all pairs."""

    def __init__(self, truth: FloatArray, groups: FloatArray, separable: BoolArray | None) -> None:
        self.truth, self.groups = truth, groups
        self.truth_signs = _signs(truth)
        self.mask: FloatArray | None = None
        if separable is not None and separable.any():
            self.mask = np.zeros((truth.size, truth.size))
            self.mask[np.triu_indices(truth.size, k=1)] = separable
            self.mask += self.mask.T

    def figures(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Every agreement, the mean over groups, for weights [resample, recipe]; each [resample], NaN if undefined."""
        by_group = [self._with(scores, weights) for scores in self.groups]
        return {name: np.mean([found[name] for found in by_group], axis=0) for name in by_group[0]}

    def _with(self, candidate: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        a, b = self.truth_signs, _signs(candidate)
        alike, different = a * b, np.abs(a)
        with np.errstate(invalid="ignore", divide="ignore"):
            concordance, pairs = _both(weights, alike), _both(weights, different)
            found = {
                "spearman": _correlation(weights, weights @ a, weights @ b),
                "kendall_tau_b": concordance / np.sqrt(pairs * _both(weights, np.abs(b))),
                "pearson": _correlation(weights, *(_centred(weights, side) for side in (self.truth, candidate))),
                "decision_accuracy": 0.5 + 0.5 * concordance / pairs,
            }
            if self.mask is not None:
                share = _both(weights, alike * self.mask) / _both(weights, different * self.mask)
                found["separable_decision_accuracy"] = 0.5 + 0.5 * share
        return found


def _signs(scores: FloatArray) -> FloatArray:
    """Sign of the second less the first, [recipe, recipe]: a weighted row sum is a centred rank."""
    return np.sign(scores[None, :] - scores[:, None])


def _both(weights: FloatArray, matrix: FloatArray) -> FloatArray:
    """w' M w, [resample]."""
    found: FloatArray = ((weights @ matrix) * weights).sum(axis=1)
    return found


def _centred(weights: FloatArray, scores: FloatArray) -> FloatArray:
    """Scores less their weighted mean, [resample, recipe]."""
    mean = (weights @ scores) / weights.sum(axis=1)
    found: FloatArray = scores[None, :] - mean[:, None]
    return found


def _correlation(weights: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """Weighted product-moment correlation of [resample, recipe] centred values, [resample]."""
    cross = (weights * a * b).sum(axis=1)
    found: FloatArray = cross / np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    return np.clip(found, -1.0, 1.0)
