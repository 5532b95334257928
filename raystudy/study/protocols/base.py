"""What every kind of protocol answers: which runs it wants, and which scores it gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raystudy.compare.scores import Scores
from raystudy.specs.base import digest
from raystudy.specs.point import Changes
from raystudy.study.state import StudyState, WantedRun


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


def extension_of(sweep: Sequence[WantedRun], most_more: int) -> list[Extension]:
    """What `most_more` learning rates would add to the runs of a sweep; nothing for none."""
    if not most_more:
        return []
    ids, num_lrs = sorted(run.run_id for run in sweep), len({run.lr for run in sweep})
    tokens, flops = sum(run.run.num_tokens for run in sweep), sum(run.flops for run in sweep)
    num_runs = most_more * len(sweep) // num_lrs
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
