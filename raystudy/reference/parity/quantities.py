"""The quantities in which two trainers are compared, with the bound of each; and how far apart weights are.

FP32 is judged by fixed bounds. What computes in fewer digits is judged by a band: how far `train` itself is, in the
same quantity, from its own FP32 run.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raystudy.reference.parity.cases import PROBE, TINY, Case
from raystudy.reference.parity.observed import OUT_OF_MEMORY, Arrays, Observed, Sums

LOSS_BOUND = 1e-4  # relative, at every step; FP32
NORM_BOUND = 1e-3  # relative, of gradient norms at every step; FP32
EVALUATION_BOUND = 1e-5  # relative, of a document's summed loss under the same weights
# Distance of weights over how far they have moved. At the study's own settings AdamW with a small epsilon makes whole
# steps of gradients that are only rounding (of keys' biases, say); the probe's epsilon does not.
STUDY_WEIGHTS_BOUND, PROBE_WEIGHTS_BOUND = 0.1, 1e-3
BAND_FACTOR = 3.0  # a band is so many times the distance of `train` from its FP32 self
LEAST_BAND = 5e-3  # of losses; measured 1e-3 at single batches between bf16 masters and autocast
WIDEST_BAND = 0.05  # of losses; beyond it agreement says too little
MOVED_BOUND = 0.02  # of shares of weights that move at the tiny rate
_FLOOR = 0.01  # a parameter that moved less than so much of the model's mean is measured against that


@dataclass(frozen=True)
class Row:
    """One quantity in both trainers. `is_same` is None where it cannot be decided; `bound` 0: must be equal."""

    case: str
    quantity: str
    train: str
    reference: str
    difference: float
    bound: float
    is_same: bool | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what is not finite is None."""
        plain = asdict(self)
        return plain | {"difference": self.difference if math.isfinite(self.difference) else None}


def compare(case: Case, start: Arrays, train: Observed, reference: Observed, exact: Observed | None) -> list[Row]:
    """All quantities of a case; `exact` is `train` in FP32 where the case computes in fewer digits, else None."""
    if train.problem or reference.problem:
        ours, theirs = (seen.problem or "went to its end" for seen in (train, reference))
        # What train/ does not survive either says nothing of a difference.
        is_same = None if train.problem or reference.problem.startswith(OUT_OF_MEMORY) else False
        return [Row(case.name, "end", ours, theirs, math.inf, 0, is_same)]
    if case.name == TINY:
        return [_moved(case, train, reference)]
    facts = _facts(case, train, reference)
    evaluations = [_evaluation(case, "evaluation before", train.before, reference.before, EVALUATION_BOUND)]
    band = None if exact is None else _Band(train, exact, start)
    rows = [*_curves(case, train, reference, band), *_weights(case, start, train, reference, band)]
    if band is None:
        evaluations.append(_evaluation(case, "evaluation after", train.after, reference.after, LOSS_BOUND))
    else:
        worst = max(_apart(reference.after[key].mean, each.mean) for key, each in train.after.items())
        evaluations.append(band.row(case, "evaluation after, mean", _mean(train.after), _mean(reference.after), worst))
    return [*facts, *rows, *evaluations]


def _facts(case: Case, train: Observed, reference: Observed) -> Iterator[Row]:
    """What must be equal, whatever the precision."""
    rows, context = case.run.settings.batch_sequences, case.run.model.context

    def row(quantity: str, one: object, other: object, is_same: bool) -> Row:
        return Row(case.name, quantity, str(one), str(other), 0.0 if is_same else math.inf, 0, is_same)

    shared = " + ".join(map(str, reference.rows))
    is_even = max(reference.rows) - min(reference.rows) <= 1 and sum(reference.rows) == rows
    yield row("sequences a step, by worker", rows, shared, is_even)
    yield row("tokens a step", rows * context, sum(reference.rows) * context, sum(reference.rows) == rows)
    yield row(
        "order of samples", train.data_order[:8], reference.data_order[:8], train.data_order == reference.data_order
    )
    one, other = train.column("lr"), reference.column("lr")
    is_same = len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-9, atol=0))
    yield row("learning rates", f"{len(one)} steps", f"{len(other)} steps", is_same)


def _curves(case: Case, train: Observed, reference: Observed, band: "_Band | None") -> Iterator[Row]:
    steps = min(len(train.curve), len(reference.curve))
    for name, words, bound in (("loss", "loss", LOSS_BOUND), ("gradient_norm", "gradient norm", NORM_BOUND)):
        one, other = train.column(name)[:steps], reference.column(name)[:steps]
        apart = np.abs(other - one) / np.abs(one)
        for quantity, at in ((f"{words} of step 1", 0), (f"{words}, worst of {steps} steps", int(np.argmax(apart)))):
            told = (f"{one[at]:.6g}", f"{other[at]:.6g}")
            if band is None:
                first = bound if at else min(bound, LOSS_BOUND)
                yield Row(case.name, quantity, *told, float(apart[at]), first, bool(apart[at] <= first))
            else:
                yield band.row(case, quantity, *told, float(apart[at]), name)
    clip = case.run.settings.clip
    if clip is not None:
        slack = NORM_BOUND if band is None else LEAST_BAND * 20
        one, other = train.column("gradient_norm")[:steps], reference.column("gradient_norm")[:steps]
        opposed = int((((one > clip * (1 + slack)) & (other < clip * (1 - slack))) |
                       ((other > clip * (1 + slack)) & (one < clip * (1 - slack)))).sum())  # fmt: skip
        told = (f"{int((one > clip).sum())} of {steps}", f"{int((other > clip).sum())} of {steps}")
        yield Row(case.name, "steps clipped", *told, float(opposed), 0, _decided(opposed == 0, band))


def _decided(is_same: bool, band: "_Band | None") -> bool | None:
    return True if is_same else (False if band is None else None)


def _weights(case: Case, start: Arrays, train: Observed, reference: Observed, band: "_Band | None") -> Iterator[Row]:
    bound = PROBE_WEIGHTS_BOUND if case.name == PROBE else STUDY_WEIGHTS_BOUND
    last = case.run.settings.steps
    for step, one, other in ((1, train.first, reference.first), (last, train.last, reference.last)):
        if set(one) != set(other):
            yield Row(case.name, "parameters", str(len(one)), str(len(other)), math.inf, 0, False)
            return
        if case.name == PROBE:
            name, apart = worst_parameter(start, one, other)
            quantity = f"weights after step {step}: {name}"
        else:
            apart, quantity = whole_distance(start, one, other), f"weights after step {step}"
        told = (f"moved {_norm(one, start):.3g}", f"moved {_norm(other, start):.3g}")
        if band is None:
            yield Row(case.name, quantity, *told, apart, bound, apart <= bound)
        else:
            yield band.row(case, quantity, *told, apart, "weights")


class _Band:
    """How far `train` is from its own FP32 run, and what that makes of a difference."""

    def __init__(self, train: Observed, exact: Observed, start: Arrays) -> None:
        self._own = {"loss": _worst(train, exact, "loss"), "gradient_norm": _worst(train, exact, "gradient_norm")}
        self._own["weights"] = whole_distance(start, exact.last, train.last)

    def row(self, case: Case, quantity: str, train: str, reference: str, difference: float, name: str = "loss") -> Row:
        bound = max(LEAST_BAND if name == "loss" else 20 * LEAST_BAND, BAND_FACTOR * self._own[name])
        says_little = name == "loss" and bound > WIDEST_BAND
        is_same: bool | None = difference <= bound
        if (is_same and says_little) or bound < difference <= BAND_FACTOR * bound:
            is_same = None
        return Row(case.name, quantity, train, reference, difference, bound, is_same)


def _worst(one: Observed, other: Observed, name: str) -> float:
    first, second = one.column(name), other.column(name)
    steps = min(len(first), len(second))
    if not steps:
        return math.inf
    return float(np.max(np.abs(first[:steps] - second[:steps]) / np.abs(second[:steps])))


def _evaluation(case: Case, words: str, train: dict[str, Sums], reference: dict[str, Sums], bound: float) -> Row:
    """Documents one by one, and how many tokens were scored: the worst."""
    worst = max(document_distance(each, reference.get(key)) for key, each in train.items())
    count = sum(len(each.num_tokens) for each in train.values())
    told = (_mean(train), _mean(reference))
    return Row(case.name, f"{words}, worst of {count} documents", *told, worst, bound, worst <= bound)


def document_distance(train: Sums, reference: Sums | None) -> float:
    """The largest relative difference of a document's summed loss; infinite where other tokens were scored."""
    if reference is None or not np.array_equal(train.num_tokens, reference.num_tokens):
        return math.inf
    scored = train.loss_sum != 0
    if not np.array_equal(scored, reference.loss_sum != 0):
        return math.inf
    apart = np.abs(reference.loss_sum[scored] - train.loss_sum[scored]) / np.abs(train.loss_sum[scored])
    return float(apart.max(initial=0.0))


def _mean(evaluations: dict[str, Sums]) -> str:
    return f"{np.mean([each.mean for each in evaluations.values()]):.6g}" if evaluations else "none"


def _apart(one: float, other: float) -> float:
    return abs(one - other) / abs(other)


def _moved(case: Case, train: Observed, reference: Observed) -> Row:
    """Which weights move at the tiny rate, from the first step to the last: all if there are FP32 masters."""
    ours, theirs = share_moved(train.first, train.last), share_moved(reference.first, reference.last)
    still = [
        name
        for name in train.first
        if share_moved({name: reference.first[name]}, {name: reference.last[name]})
        < 0.5 * share_moved({name: train.first[name]}, {name: train.last[name]})
    ]
    apart = abs(ours - theirs)
    told = (f"{ours:.1%}", f"{theirs:.1%}" + (f", not {len(still)} of {len(train.first)} parameters" if still else ""))
    return Row(case.name, "weights that move", *told, apart, MOVED_BOUND, apart <= MOVED_BOUND)


def share_moved(first: Arrays, last: Arrays) -> float:
    """The share of weights that are not the same number."""
    moved = sum(int((np.asarray(last[name]) != np.asarray(array)).sum()) for name, array in first.items())
    return moved / max(1, sum(array.size for array in first.values()))


def whole_distance(start: Arrays, one: Arrays, other: Arrays) -> float:
    """Distance of two models over how far the first has moved from `start`."""
    moved = _norm(one, start)
    return _norm(other, one) / moved if moved else (0.0 if not _norm(other, one) else math.inf)


def worst_parameter(start: Arrays, one: Arrays, other: Arrays) -> tuple[str, float]:
    """The parameter that is furthest off, by its distance over how far it has moved in `one`, and that."""
    count = sum(array.size for array in start.values())
    floor = _FLOOR * _norm(one, start) / math.sqrt(count)
    worst, name = -1.0, ""
    for key, array in start.items():
        moved = max(_norm({key: one[key]}, {key: array}), floor * math.sqrt(array.size))
        apart = _norm({key: other[key]}, {key: one[key]})
        share = apart / moved if moved else (math.inf if apart else 0.0)
        if not math.isfinite(share):
            share = math.inf
        if share > worst:
            worst, name = share, key
    return name, worst


def _norm(one: Arrays, other: Arrays) -> float:
    """Euclidean distance of two sets of arrays."""
    squares = (np.sum(np.square(np.asarray(one[k], np.float64) - np.asarray(other[k], np.float64))) for k in one)
    return math.sqrt(float(sum(squares)))
