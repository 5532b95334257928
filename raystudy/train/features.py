"""Random-feature models: a trained linear head on fixed features, by stochastic gradient descent. numpy only.

All runs on one recipe are trained together, step by step; what a run gives does not depend, bit for bit, on which
others are trained beside it. The samples of a run are a function of its recipe and seed alone, so that runs that
differ in learning rate or number of steps see the same ones. Losses are exact expectations. Works in the
eigenbasis of the recipe's feature covariance, on best head minus head. Knows nothing of storage.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from raystudy.specs.run import FeaturesRun
from raystudy.specs.synthetic import SyntheticData
from raystudy.specs.training import SgdSettings
from raystudy.study.synthetic import Moments, Spectrum, moments, spectrum

FloatArray = npt.NDArray[np.float64]

_BLOCK = 256  # steps whose samples are drawn at once; part of the order of the stream and so of `numerics`
_CURVE_POINTS = 10  # most rows of a training curve
_DIVERGED_RATIO = 1.05  # a loss on the recipe's own data that ends above this times the first is no training


@dataclass
class FeaturesOutcome:
    """What a run gives: `status` is finished or diverged; squared errors by validation digest; head [features]."""

    status: str
    curve: list[dict[str, float]]
    initial: dict[str, float]
    final: dict[str, float]
    moved: dict[str, float]
    weights: FloatArray
    seconds: float


def train_features(
    runs: Sequence[FeaturesRun], data: SyntheticData, validation: Mapping[str, SyntheticData]
) -> Iterator[tuple[FeaturesRun, FeaturesOutcome]]:
    """Train `runs`, all on `data`; yields each with its outcome, in groups of one model, batch and number of steps."""
    ordered = sorted(runs, key=lambda run: (_shape(run), run.seed))
    for (features, draw, batch, steps), members in groupby(ordered, key=_shape):
        group = list(members)
        started = time.perf_counter()
        basis = spectrum(data, features, draw)
        differences, curves = _descend(group, basis, batch, steps)
        seconds = (time.perf_counter() - started) / len(group)
        held = {digest: moments(other, features, draw) for digest, other in validation.items()}
        for run, difference, curve in zip(group, differences, curves, strict=True):
            yield run, _outcome(run, basis, held, difference, curve, seconds)


def _shape(run: FeaturesRun) -> tuple[int, int, int, int]:
    return run.model.features, run.model.draw, run.settings.batch_samples, run.settings.steps


def rates(settings: SgdSettings) -> FloatArray:
    """The learning rate of every step [steps]: constant, then falling linearly to zero (one step after the last)."""
    last = round(settings.decay * settings.steps)
    left = np.arange(settings.steps, 0, -1, dtype=np.float64)
    return settings.lr * (np.minimum(1.0, left / last) if last else np.ones(settings.steps))


def averaged_steps(settings: SgdSettings) -> int:
    """How many of the last steps have their weights averaged; 1 is the last weights alone."""
    return max(1, round(settings.average * settings.steps))


def stream(shards: str, seed: int) -> np.random.Generator:
    """The generator of a run's samples: of its recipe and seed."""
    return np.random.default_rng((int(shards, 16), seed))


def _descend(
    group: Sequence[FeaturesRun], basis: Spectrum, batch: int, steps: int
) -> tuple[FloatArray, list[list[dict[str, float]]]]:
    """Differences [run, features] that count for the score, and the curves, of runs ordered by seed."""
    factors = np.stack([rates(run.settings) for run in group]) / batch
    starts = steps - np.array([averaged_steps(run.settings) for run in group])
    current = np.tile(basis.best, (len(group), 1))
    total = np.zeros_like(current)
    curves: list[list[dict[str, float]]] = [[] for _ in group]
    every = max(1, steps // _CURVE_POINTS)
    bounds = np.cumsum([0, *(len(list(same)) for _, same in groupby(group, key=lambda run: run.seed))])
    parts = [slice(low, high) for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    generators = [stream(group[part.start].shards, group[part.start].seed) for part in parts]
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, steps, _BLOCK):
            blocks = [_samples(generator, basis, batch) for generator in generators]
            for step in range(first, min(first + _BLOCK, steps)):
                for part, (inputs, noise) in zip(parts, blocks, strict=True):
                    own = inputs[step - first]
                    # One product of a matrix and a vector for each run, so that no run depends on how many there are.
                    error = np.matmul(own, current[part, :, None])[..., 0] + noise[step - first]
                    current[part] -= factors[part, step, None] * np.matmul(error[:, None, :], own)[:, 0]
                counting = starts <= step
                total[counting] += current[counting]
                if step % every == 0 or step == steps - 1:
                    _log(curves, group, factors[:, step] * batch, current, basis, step)
    return total / (steps - starts)[:, None], curves


def _samples(generator: np.random.Generator, basis: Spectrum, batch: int) -> tuple[FloatArray, FloatArray]:
    """Features [step, sample, feature] in the eigenbasis and label noise [step, sample] of one block of steps."""
    normal = generator.standard_normal((_BLOCK, batch, len(basis.values) + 1))
    inputs = np.ascontiguousarray(normal[..., :-1] * np.sqrt(basis.values))
    return inputs, normal[..., -1] * math.sqrt(basis.residual)


def _own_loss(differences: FloatArray, basis: Spectrum) -> FloatArray:
    """Expected squared error on the recipe's own data, [run]."""
    loss: FloatArray = basis.residual + (differences**2 * basis.values).sum(axis=-1)
    return loss


def _log(
    curves: list[list[dict[str, float]]],
    group: Sequence[FeaturesRun],
    lrs: FloatArray,
    current: FloatArray,
    basis: Spectrum,
    step: int,
) -> None:
    losses = _own_loss(current, basis)
    norms = np.sqrt(((current * basis.values) ** 2).sum(axis=-1))
    for place in range(len(group)):
        row = {"step": step, "lr": float(lrs[place]), "loss": float(losses[place])}
        curves[place].append({**row, "gradient_norm": float(norms[place])})


def _outcome(
    run: FeaturesRun,
    basis: Spectrum,
    held: Mapping[str, Moments],
    difference: FloatArray,
    curve: list[dict[str, float]],
    seconds: float,
) -> FeaturesOutcome:
    head = basis.head(difference)
    before, after = float(_own_loss(basis.best, basis)), float(_own_loss(difference, basis))
    is_finished = math.isfinite(after) and after <= _DIVERGED_RATIO * before
    moved = {
        "cumulative_lr": float(rates(run.settings).sum()),
        "share_of_weights_changed": float((head != 0.0).mean()),
    }
    if is_finished:
        moved["relative_loss_drop"] = (before - after) / before
    return FeaturesOutcome(
        status="finished" if is_finished else "diverged",
        curve=curve,
        initial={digest: own.power for digest, own in held.items()},
        final={digest: float(own.loss(head)) for digest, own in held.items()} if is_finished else {},
        moved=moved,
        weights=head,
        seconds=seconds,
    )
