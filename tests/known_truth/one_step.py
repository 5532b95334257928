"""Which pairs of recipes flip between two learning rates after one step: the formula against steps really taken."""

from typing import Any

import numpy as np

from raystudy.study.feature_predictions import flipped_pairs, one_step_changes
from raystudy.study.feature_theory import head_moments
from raystudy.study.synthetic import Moments, moments
from tests.known_truth.draw import Draw

CHECKPOINT_LR, CHECKPOINT_STEPS = 0.2, 300
RATES = np.array([0.01, 0.8])
BATCH = 16
_CHUNK = 2000  # batches drawn at once


def checkpoint(draw: Draw) -> np.ndarray:
    """Head after gradient descent on the average of all recipes: common to all, and partly trained."""
    own = _moments(draw)
    h, c = np.mean([one.h for one in own], axis=0), np.mean([one.c for one in own], axis=0)
    head = np.zeros_like(c)
    for _ in range(CHECKPOINT_STEPS):
        head = head - CHECKPOINT_LR * (h @ head - c)
    return head


def measured_changes(
    own: Moments, validation: Moments, head: np.ndarray, batches: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean change [rate] of the validation loss over `batches` real steps from `head`, and its standard error.

    Samples are drawn and steps taken in feature space; no formula for moments of gradients enters.
    """
    root = np.linalg.cholesky(own.h)
    best = np.linalg.solve(own.h, own.c)
    noise = np.sqrt(own.power - own.c @ best)
    changes = []
    for start in range(0, batches, _CHUNK):
        count = min(_CHUNK, batches - start)
        z = generator.standard_normal((count, BATCH, len(head))) @ root.T
        y = z @ best + noise * generator.standard_normal((count, BATCH))
        step = np.einsum("nb,nbf->nf", y - z @ head, z) / BATCH
        after = np.stack([validation.loss(head + rate * step) for rate in RATES], axis=1)
        changes.append(after - validation.loss(head))
    whole = np.concatenate(changes)
    return whole.mean(axis=0), whole.std(axis=0, ddof=1) / np.sqrt(batches)


def flips_from_a_checkpoint(draw: Draw, batches: int) -> dict[str, Any]:
    """Predicted and measured flips among the pairs whose order is resolved (|z| > 2) at both learning rates."""
    head, own = checkpoint(draw), _moments(draw)
    predicted = np.stack([one_step_changes(one, draw.validation, head, BATCH, RATES) for one in own])
    means, errors = zip(
        *(
            measured_changes(one, draw.validation, head, batches, np.random.default_rng((draw.number, 11, place)))
            for place, one in enumerate(own)
        ),
        strict=True,
    )
    mean, error = np.array(means), np.array(errors)
    first, second = np.triu_indices(len(own), k=1)
    z = (mean[first] - mean[second]) / np.hypot(error[first], error[second])
    resolved = (np.abs(z) > 2).all(axis=1)
    said = flipped_pairs(predicted[:, 0], predicted[:, 1]) & resolved
    seen = flipped_pairs(mean[:, 0], mean[:, 1]) & resolved
    both = int((said & seen).sum())
    return {
        "pairs": len(first),
        "resolved": int(resolved.sum()),
        "predicted": int(said.sum()),
        "measured": int(seen.sum()),
        "both": both,
        "precision": both / int(said.sum()) if said.any() else None,
        "recall": both / int(seen.sum()) if seen.any() else None,
        "mean_z2_of_changes": float((((mean - predicted) / error) ** 2).mean()),
    }


def flips_from_zero(draw: Draw) -> dict[str, Any]:
    """From a head of zero: flips that one step predicts, and flips of the exact losses after more and more steps."""
    own, zero = _moments(draw), np.zeros(draw.features)
    predicted = np.stack([one_step_changes(one, draw.validation, zero, BATCH, RATES) for one in own])
    found = {"predicted": int(flipped_pairs(predicted[:, 0], predicted[:, 1]).sum())}
    for steps in (10, 100, 300):
        schedule = np.repeat(RATES[:, None], steps, axis=1)
        losses = head_moments(draw.spectra, BATCH, schedule).expected_losses(draw.validation)
        found[f"after_{steps}_steps"] = int(flipped_pairs(losses[:, 0], losses[:, 1]).sum())
    return found


def _moments(draw: Draw) -> list[Moments]:
    return [moments(data, draw.features, draw.features_draw) for data in draw.data]
