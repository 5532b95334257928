"""What a difference is called: found by building each known one into the probe, and by arithmetic on evaluations."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raystudy.artifacts.shards import RecipeView
from raystudy.reference.parity.cases import Case
from raystudy.reference.parity.observed import Arrays, Observed, Sums
from raystudy.reference.parity.quantities import EVALUATION_BOUND, PROBE_WEIGHTS_BOUND, worst_parameter
from raystudy.reference.parity.replays import (
    DIFFERENCES,
    NONE,
    Difference,
    Replay,
    epsilon_of,
    is_in_bf16,
    replay,
)
from raystudy.specs.training import AdamW

# A difference is named where its replay is this much nearer to the reference than `train` is, and near in itself:
# rounding to bf16 turns a last digit of FP32 into one of bf16, so that replay alone is less than exact.
_NEARER, _NEAR = 0.2, 1e-2
_SMALL_EPS = 1e-3  # of the probe's: smaller ones cannot be told apart in a first step
_EPS_CHANGE = 10.0  # the factor for which the visibility of an epsilon is stated


@dataclass(frozen=True)
class Known:
    """A known difference in this probe.

    `effect`: how far it takes the probe's weights, over the bound: above 1 it cannot stay unseen. `distance`: of the
    reference's weights from it, over the bound; None where not asked. `is_it`: the reference behaves like it.
    """

    name: str
    words: str
    effect: float
    distance: float | None = None
    is_it: bool = False

    @property
    def would_show(self) -> bool:
        """Whether parity would fail if the reference had it."""
        return self.effect > 1

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self) | {"would_show": self.would_show}
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in plain.items()}


class Replays:
    """Replays of one probe; weights are kept of the one with no difference alone. `start`: the initial weights."""

    def __init__(self, case: Case, view: RecipeView, device: str, start: Arrays) -> None:
        self.case, self.start = case, start
        self._make: Callable[[Difference, float | None], Replay] = lambda difference, eps: replay(
            case, view, device, difference, eps
        )
        self._effects: dict[tuple[str, float | None], float] = {}

    @cached_property
    def plain(self) -> Replay:
        """With no difference."""
        return self._make(NONE, None)

    def apart(self, one: Replay, other: Replay | Observed) -> float:
        """How far weights are from those of `one`, in the parameter that is furthest off, over the bound."""
        ends = ((one.first, other.first), (one.last, other.last))
        return max(worst_parameter(self.start, *end)[1] for end in ends) / PROBE_WEIGHTS_BOUND

    def effect(self, name: str, eps: float | None) -> float:
        """How far one of DIFFERENCES takes the weights from those without, over the bound."""
        if (name, eps) not in self._effects:
            self._effects[name, eps] = self.apart(self.plain, self._make(DIFFERENCES[name], eps))
        return self._effects[name, eps]

    def distance(self, name: str, eps: float | None, reference: Observed) -> float:
        """How far the reference is from one of DIFFERENCES, over the bound."""
        return self.apart(self._make(DIFFERENCES[name], eps), reference)


def known_differences(replays: Replays, reference: Observed, *, is_same: bool) -> list[Known]:
    """Every known difference, and whether the reference behaves like it; it is not asked where all `is_same`."""
    found = []
    settings, workers = replays.case.run.settings, replays.case.engine.workers
    asks = not is_same and not reference.problem
    from_plain = replays.apart(replays.plain, reference) if asks else 0.0
    for name, difference in DIFFERENCES.items():
        words = difference.words
        eps: float | None = None
        if difference.least_workers > workers:
            continue
        if difference.other_eps:
            if not isinstance(settings.optimizer, AdamW):
                continue
            eps = settings.optimizer.eps * _EPS_CHANGE
        effect = replays.effect(name, eps)
        if not asks:
            found.append(Known(name, words, effect))
            continue
        if difference.other_eps and isinstance(settings.optimizer, AdamW):
            eps, words = _read_epsilon(replays, reference, settings.optimizer.eps)
        distance = replays.distance(name, eps, reference)
        is_it = distance * PROBE_WEIGHTS_BOUND <= _NEAR and distance <= _NEARER * from_plain and effect > 1
        found.append(Known(name, words, effect, distance, is_it))
    return found


def _read_epsilon(replays: Replays, reference: Observed, asked: float) -> tuple[float, str]:
    eps = epsilon_of(replays.case, replays.start, replays.plain.first_gradient, reference.first)
    if eps < _SMALL_EPS * asked:
        return 1e-8, f"an epsilon of AdamW of {_SMALL_EPS * asked:.0e} or less where {asked:g} is asked for"
    return eps, f"an epsilon of AdamW of about {eps:.2g} where {asked:g} is asked for"


def has_no_masters(train: Mapping[str, Observed], reference: Mapping[str, Observed]) -> bool:
    """Whether all of the reference's weights, in any case, have no more digits than bf16, and `train`'s have."""
    return any(
        bool(seen.first) and is_in_bf16(seen.first) and is_in_bf16(seen.last) and not is_in_bf16(train[name].last)
        for name, seen in reference.items()
        if name in train
    )


def named_evaluation(train: Mapping[str, Sums], reference: Mapping[str, Sums], workers: int) -> list[str]:
    """What an evaluation of the same weights does otherwise, in words; empty where nothing known fits."""
    found: list[str] = []
    for digest, ours in train.items():
        theirs = reference.get(digest)
        if theirs is None:
            found.append("an evaluation that leaves out a validation set")
        elif len(theirs.loss_sum) != len(ours.loss_sum):
            found.append(f"an evaluation of {len(theirs.loss_sum)} documents in place of {len(ours.loss_sum)}")
        else:
            found += _named_sums(ours, theirs, workers)
    return list(dict.fromkeys(found))


def _named_sums(ours: Sums, theirs: Sums, workers: int) -> list[str]:
    scored = ours.num_tokens > 0
    ratio = np.ones(len(scored))
    ratio[scored] = theirs.loss_sum[scored] / ours.loss_sum[scored]
    counts = np.ones(len(scored))
    counts[scored] = theirs.num_tokens[scored] / ours.num_tokens[scored]
    found = []
    dropped = np.flatnonzero(scored & ((np.abs(ratio) < EVALUATION_BOUND) | (counts == 0)))
    doubled = np.flatnonzero(scored & ((np.abs(ratio - 2) < 1e-3) | (counts == 2)))
    if len(dropped):
        found.append(f"an evaluation that drops {_documents(dropped)}")
    if len(doubled):
        found.append(f"an evaluation that counts {_documents(doubled)} twice")
    if found or workers < 2:
        return found
    shares = [np.arange(rank, len(scored), workers) for rank in range(workers)]
    means = [ours.loss_sum[own].sum() / ours.num_tokens[own].sum() for own in shares if ours.num_tokens[own].any()]
    expected = float(np.mean(means))
    if abs(theirs.mean - expected) <= EVALUATION_BOUND * expected < abs(ours.mean - expected):
        found.append("an evaluation that is the mean of workers' means in place of the mean over all tokens")
    return found


def _documents(places: Any) -> str:
    return ("document " if len(places) == 1 else "documents ") + ", ".join(str(place + 1) for place in places[:5])
