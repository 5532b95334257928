"""What every kind of protocol answers: which runs it wants, and which scores it gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raystudy.compare.scores import Scores
from raystudy.study.state import StudyState, WantedRun


@dataclass(frozen=True)
class Waiting:
    """Runs that cannot be named yet, and what they wait for."""

    num_runs: int
    reason: str
    num_tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Demand:
    """The runs a protocol wants, tuning included, and those that must wait."""

    runs: Sequence[WantedRun]
    waiting: Sequence[Waiting] = ()


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
    edges: Mapping[str, str] = field(default_factory=dict)  # recipe -> low or high


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
