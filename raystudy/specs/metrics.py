"""Names of a study's metrics: what a comparison may rest on.

`loss` and `bits-per-byte` are means over validation sets, each set counting the same; `loss-token-weighted` counts
every token and `bits-per-byte-byte-weighted` every byte the same. `<loss or bits-per-byte>/<set>` is one set's, and
`task/<name>/<metric>` a downstream task's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from raystudy.specs.downstream import TASK_METRICS

LOSS = "loss"
BITS_PER_BYTE = "bits-per-byte"
WEIGHTED = {LOSS: "loss-token-weighted", BITS_PER_BYTE: "bits-per-byte-byte-weighted"}
_TASK = "task/"


@dataclass(frozen=True)
class Metric:
    """A metric's name taken apart.

    `rows`: the name of a record's rows behind it. `chosen`: one validation set, or the task; "" for a mean over sets.
    """

    rows: str
    chosen: str
    kind: Literal["mean", "weighted mean", "set", "task"]

    @property
    def is_task(self) -> bool:
        """Whether it is a downstream task's, and so higher is better in the record."""
        return self.kind == "task"

    @property
    def unit(self) -> str:
        """Of the scores: those of a task are negated, so that lower is better."""
        if self.is_task:
            return f"{TASK_METRICS[self.rows]}, negated"
        return "bits per byte" if self.rows == BITS_PER_BYTE else "nats per token"

    @property
    def guard(self) -> str:
        """The loss by which the unigram floor guards it: of the same sets and weights; of a task, the mean loss."""
        if self.kind == "weighted mean":
            return WEIGHTED[LOSS]
        return f"{LOSS}/{self.chosen}" if self.kind == "set" else LOSS


@lru_cache(maxsize=1024)
def read_metric(name: str) -> Metric:
    """The metric called `name`, one of `known_metrics`."""
    for rows, weighted in WEIGHTED.items():
        if name == weighted:
            return Metric(rows, "", "weighted mean")
    if name.startswith(_TASK):
        task, _, rows = name.removeprefix(_TASK).partition("/")
        return Metric(rows, task, "task")
    rows, _, chosen = name.partition("/")
    return Metric(rows, chosen, "set" if chosen else "mean")


def task_metric(task: str, metric: str) -> str:
    """The name of a task's metric."""
    return f"{_TASK}{task}/{metric}"


def known_metrics(validation: Iterable[str], tasks: Iterable[str], *, is_synthetic: bool = False) -> list[str]:
    """All names that a study with these validation sets and tasks may use; a synthetic one has losses alone."""
    sets = list(validation)
    losses = [LOSS, *(f"{LOSS}/{name}" for name in sets)]
    if is_synthetic:
        return losses
    bits = [BITS_PER_BYTE, *(f"{BITS_PER_BYTE}/{name}" for name in sets)]
    of_tasks = [task_metric(task, metric) for task in tasks for metric in TASK_METRICS]
    return [*losses, WEIGHTED[LOSS], *bits, WEIGHTED[BITS_PER_BYTE], *of_tasks]
