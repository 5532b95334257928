"""What is seen of one trainer in one case, in memory and in a scratch folder on its way between processes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

OUT_OF_MEMORY = "out of memory"  # how such a problem begins


@dataclass(frozen=True)
class Sums:
    """One evaluation of one validation set, a number per document: summed loss in nats, scored tokens."""

    loss_sum: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Nats per token over all documents."""
        return float(self.loss_sum.sum() / max(1, self.num_tokens.sum()))


@dataclass(frozen=True)
class Observed:
    """One trainer in one case.

    Attributes:
        problem: why it did not go to its end; empty where it did.
        curve: rows of step, lr, loss and gradient_norm (before clipping).
        before, after: evaluations before the first and after the last step, by validation digest.
        first, last: weights after the first and after the last step, in FP32; empty where something diverged.
        rows: sequences of a batch of each worker.
        data_order: fingerprint of the order of samples.
    """

    problem: str
    curve: list[dict[str, float]]
    before: dict[str, Sums]
    after: dict[str, Sums]
    rows: list[int]
    data_order: str
    first: Arrays = field(repr=False)
    last: Arrays = field(repr=False)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One column of the curve."""
        return np.array([row[name] for row in self.curve])


def without_memory(where: str) -> Observed:
    """One for which memory did not suffice."""
    return Observed(f"{OUT_OF_MEMORY} {where}", [], {}, {}, [], "", {}, {})


def write_observed(folder: Path, name: str, seen: Observed) -> None:
    """Leave `seen` in `folder`, for `read_observed`."""
    from safetensors.numpy import save_file

    for part, arrays in (("first", seen.first), ("last", seen.last)):
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / f"{name}-{part}")
    plain = {
        "problem": seen.problem,
        "curve": seen.curve,
        "before": _plain(seen.before),
        "after": _plain(seen.after),
        "rows": seen.rows,
        "data_order": seen.data_order,
    }
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")


def read_observed(folder: Path, name: str) -> Observed:
    """What `write_observed` has left."""
    from safetensors.numpy import load_file

    plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    first, last = (load_file(folder / f"{name}-{part}") for part in ("first", "last"))
    before, after = ({digest: _sums(each) for digest, each in plain.pop(when).items()} for when in ("before", "after"))
    return Observed(**plain, before=before, after=after, first=first, last=last)


def _plain(evaluations: Mapping[str, Sums]) -> dict[str, list[list[float]]]:
    return {digest: [each.loss_sum.tolist(), each.num_tokens.tolist()] for digest, each in evaluations.items()}


def _sums(columns: list[list[float]]) -> Sums:
    return Sums(np.array(columns[0], dtype=np.float64), np.array(columns[1], dtype=np.int64))
