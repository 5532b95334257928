"""The value of a study's metric in one record: means over validation sets, and scores of downstream tasks.

Knows nothing of which runs a study wants.
"""

import math

import numpy as np

from raystudy.artifacts.results import Record
from raystudy.specs.metrics import BITS_PER_BYTE, Metric, read_metric
from raystudy.specs.reading import Reading
from raystudy.study.inputs import StudyInputs

_MISSING = float("nan")


def score_of(record: Record, metric: str, inputs: StudyInputs, reading: Reading | None = None) -> float:
    """The score of the last weights or a reading, lower is better; NaN where the record lacks it.

    A task's metric is negated here and nowhere else.
    """
    parsed = read_metric(metric)
    if not parsed.is_task:
        return _over_sets(record, parsed.rows, parsed, inputs, reading)
    value = record.metric(parsed.rows, inputs.tasks.get(parsed.chosen, ""), reading)
    return _MISSING if value is None else -value


def floor_of(record: Record, metric: str, inputs: StudyInputs, rows: str) -> float:
    """The floor whose rows are called `rows`, in the metric's unit; NaN where it is not known, and of a task."""
    parsed = read_metric(metric)
    return _MISSING if parsed.is_task else _over_sets(record, rows, parsed, inputs)


def sets_of(metric: str, inputs: StudyInputs) -> list[str]:
    """The validation sets behind a metric; none behind a task's."""
    parsed = read_metric(metric)
    return [] if parsed.is_task else [name for name in inputs.validation if parsed.chosen in ("", name)]


def _over_sets(record: Record, rows: str, metric: Metric, inputs: StudyInputs, reading: Reading | None = None) -> float:
    """The mean over the metric's sets, each set, token or byte counting the same, of the rows called `rows`."""
    names = [name for name in inputs.validation if metric.chosen in ("", name)]
    values = [_on_set(record, rows, metric, name, inputs, reading) for name in names]
    if not names or any(map(math.isnan, values)):
        return _MISSING
    if metric.kind != "weighted mean":
        return float(np.mean(values))
    if any(name not in inputs.sizes for name in names):
        return _MISSING
    weights = [inputs.sizes[name][1 if metric.rows == BITS_PER_BYTE else 0] for name in names]
    return float(np.average(values, weights=weights))


def _on_set(
    record: Record, rows: str, metric: Metric, name: str, inputs: StudyInputs, reading: Reading | None
) -> float:
    """One set's value; that of a floor, which is kept in nats per token, in the metric's unit."""
    digest = inputs.validation[name]
    value = record.metric(rows, digest, reading)
    if value is None:
        return _MISSING
    if metric.rows != BITS_PER_BYTE or rows == BITS_PER_BYTE:
        return value
    if name not in inputs.sizes:
        return _MISSING
    tokens, size = inputs.sizes[name]
    return value * tokens / size / math.log(2)
