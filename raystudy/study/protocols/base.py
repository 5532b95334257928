"""What every kind of protocol answers: which runs it wants, and which scores it gives."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raystudy.compare.scores import Scores
from raystudy.specs.base import digest
from raystudy.specs.point import Changes
from raystudy.specs.reading import Scoring
from raystudy.study.scoring import scored_by
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun


@dataclass(frozen=True)
class Waiting:
    """Runs that cannot be named yet, and what they wait for."""

    num_runs: int
    reason: str
    num_tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Extension:
    """The most that the extension of one sweep's grid may still add; `sweep` names the sweep."""

    sweep: str
    num_runs: int
    num_tokens: int
    flops: float


@dataclass(frozen=True)
class Demand:
    """The runs a protocol wants, tuning included, those that must wait, and what grids may still add."""

    runs: Sequence[WantedRun]
    waiting: Sequence[Waiting] = ()
    extensions: Sequence[Extension] = ()


def demand_of(
    state: StudyState, runs: Iterable[WantedRun], waiting: Sequence[Waiting] = (), extensions: Sequence[Extension] = ()
) -> Demand:
    """A demand for `runs`: branches bring their parents, and wait while those have no result."""
    wanted: list[WantedRun] = []
    branches: list[WantedRun] = []
    for run in runs:
        if run.parent is None:
            wanted.append(run)
            continue
        wanted.append(run.parent)
        (wanted if state.record(run.parent) is not None else branches).append(run)
    if branches:
        tokens, flops = sum(run.run.num_tokens for run in branches), sum(run.flops for run in branches)
        waiting = [*waiting, Waiting(len(branches), "the runs that they branch from", tokens, flops)]
    return Demand(wanted, waiting, extensions)


def with_parents(runs: Iterable[WantedRun]) -> list[WantedRun]:
    """`runs`, each branch after the run it starts from."""
    return [one for run in runs for one in ((run,) if run.parent is None else (run.parent, run))]


def asked_ahead(state: StudyState, runs: Iterable[WantedRun], scoring: Scoring | None) -> list[WantedRun]:
    """`runs` that may come to be scored so: those still to be made are read for it at once, not trained again later."""
    return [run if scoring is None or state.record(run) is not None else _asked_for(run, scoring) for run in runs]


def _asked_for(run: WantedRun, scoring: Scoring) -> WantedRun:
    scored = scored_by(run, scoring)
    if scored.parent is not None:
        return scored.parent
    return replace(run, asked=scored.everything_asked) if scored.asks else run


def extension_of(sweep: Sequence[WantedRun], most_more: int) -> list[Extension]:
    """What `most_more` learning rates would add to the runs of a sweep; nothing for none."""
    if not most_more:
        return []
    ids, num_lrs = sorted(f"{run.run_id} {run.reading or ''}".strip() for run in sweep), len({run.lr for run in sweep})
    every = with_parents(sweep)
    tokens, flops = sum(run.run.num_tokens for run in every), sum(run.flops for run in every)
    num_runs = most_more * len(every) // num_lrs
    return [Extension(digest(ids), num_runs, most_more * tokens // num_lrs, most_more * flops / num_lrs)]


@dataclass(frozen=True)
class Scored:
    """One protocol's scores, ready to be compared, and what stands behind them.

    `runs` holds the runs that make each recipe's score, `all_runs` also those that tuning took.
    """

    name: str
    kind: str
    scores: Mapping[str, Scores]  # by metric
    runs: Mapping[str, Sequence[WantedRun]] = field(default_factory=dict)  # by recipe
    all_runs: Sequence[WantedRun] = ()
    model: str | None = None
    ladder: str | None = None
    lr: float | None = None
    lr_rule: str | None = None
    edges: Mapping[str, str] = field(default_factory=dict)  # recipe -> low or high, of which axis where there are more
    changes: Changes = ()  # settings beside `lr` at which all runs are
    scoring: Scoring | None = None


class ProtocolKind(ABC):
    """One kind of protocol under one name of a study."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def demand(self, state: StudyState) -> Demand:
        """The runs wanted now: a pure function of study and records."""

    @abstractmethod
    def scored(self, state: StudyState) -> list[Scored]:
        """The scores as far as records go; several for a ladder, none while a rule is unresolved."""
