"""Probes of one decoder at one set of weights: specs, shards and documents in, rows of metrics out. No storage."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raystudy.artifacts.shards import RecipeView
from raystudy.specs.run import AlignmentProbe, DecoderProbe, SharpnessProbe
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.probes.alignment import Alignment, measure_alignment
from raystudy.train.probes.batches import recipe_batches, validation_batches
from raystudy.train.probes.sharpness import Eigenvalue, measure_sharpness
from raystudy.train.process import reset_state

Weights = Mapping[str, npt.NDArray[Any]]

PER_LR = "nats per token and unit of learning rate"
CURVATURE = "nats per token and squared unit of weight"
SCALED_CURVATURE = "per unit of learning rate"


@dataclass(frozen=True)
class Row:
    """One number of a probe, of a dataset by its digest."""

    name: str
    dataset: str
    value: float
    unit: str
    direction: str


@dataclass
class Measurement:
    """What a probe gives: `status` is finished, or diverged where a number is not finite; `details` for the record."""

    status: str
    rows: list[Row]
    num_tokens: int
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


def measure_probes(
    probes: Sequence[AlignmentProbe | SharpnessProbe],
    view: RecipeView,
    documents: Mapping[str, ValidationDocuments],
    weights: Weights | None,
    device: str = "cpu",
) -> list[Measurement]:
    """Measure probes that differ in their validation set at most; `weights`: those kept, None at initialisation.

    Seconds are shared evenly.
    """
    started, first = time.perf_counter(), probes[0]
    reset_state(first.seed)
    model = _model(first, weights, device)
    batches = recipe_batches(first, view, device)
    aligned = [probe for probe in probes if isinstance(probe, AlignmentProbe)]
    held = {probe.validation: validation_batches(probe, documents[probe.validation], device) for probe in aligned}
    alignments = measure_alignment(model, batches, held) if held else {}
    found = []
    for probe in probes:
        if isinstance(probe, AlignmentProbe):
            num_read = sum(batch.num_tokens for batch in held[probe.validation]) + 2 * probe.batch_tokens
            rows = _alignment_rows(probe.validation, *alignments[probe.validation])
            found.append(_measurement(rows, num_read, {"preconditioner": _preconditioner(probe)}))
        else:
            pair = measure_sharpness(model, batches, probe.seed, probe.iterations, probe.tolerance)
            steps = {"lanczos_steps": [eigenvalue.steps for eigenvalue in pair]}
            details = {"preconditioner": _preconditioner(probe), **steps}
            found.append(_measurement(_sharpness_rows(probe.shards, *pair), probe.batch_tokens, details))
    for measurement in found:
        measurement.seconds = (time.perf_counter() - started) / len(found)
    return found


def _model(probe: DecoderProbe, weights: Weights | None, device: str) -> Decoder:
    model = Decoder(probe.model, probe.seed)
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    dtype = torch.float64 if probe.precision == "fp64" else torch.float32
    return model.to(device=device, dtype=dtype)


def _preconditioner(probe: DecoderProbe) -> str:
    return f"Adam's, from the mean squares of the gradients of {probe.batches} batches of the recipe"


def _measurement(rows: list[Row], num_tokens: int, details: dict[str, Any]) -> Measurement:
    if all(math.isfinite(row.value) for row in rows):
        return Measurement("finished", rows, num_tokens, details=details)
    return Measurement("diverged", [], num_tokens, details=details)


def _alignment_rows(dataset: str, plain: Alignment, scaled: Alignment) -> list[Row]:
    rows = []
    for before, found in (("", plain), ("preconditioned-", scaled)):
        for name, value, error, unit in (
            ("gradient-alignment", found.inner, found.inner_error, PER_LR),
            ("gradient-cosine", found.cosine, found.cosine_error, "cosine"),
        ):
            rows.append(Row(f"{before}{name}", dataset, value, unit, "higher-is-better"))
            rows.append(Row(f"{before}{name}-standard-error", dataset, error, unit, "lower-is-better"))
    return rows


def _sharpness_rows(dataset: str, plain: Eigenvalue, scaled: Eigenvalue) -> list[Row]:
    rows = []
    for name, found, unit in (
        ("sharpness", plain, CURVATURE),
        ("preconditioned-sharpness", scaled, SCALED_CURVATURE),
    ):
        rows.append(Row(name, dataset, found.value, unit, "lower-is-better"))
        rows.append(Row(f"{name}-residual", dataset, found.residual, unit, "lower-is-better"))
    return rows
