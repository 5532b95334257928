"""A run that a protocol wants, with the names a person knows it by, and what it is wanted for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from raystudy.specs.model import training_flops_per_token
from raystudy.specs.point import Changes, changes_in_words
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import (
    AlignmentProbe,
    CommandRun,
    FeaturesProbe,
    LikenessProbe,
    ProbeRun,
    Run,
    SharpnessProbe,
    TrainRun,
)

_NOTHING = Asked()


@dataclass(frozen=True)
class WantedRun:
    """A run and the names a person knows it by; `detail` tells probes of one recipe and model apart.

    `reading`: the weights whose losses are its score; None for its last. `asked`: what else it is to be read for or to
    keep. `parent`: the run that a branch starts from.
    """

    run: Run
    recipe: str
    model: str
    detail: str = ""
    changes: Changes = ()  # what its point of a search space changes beside the learning rate
    reading: Reading | None = None
    asked: Asked = _NOTHING
    parent: "WantedRun | None" = None

    @cached_property
    def run_id(self) -> str:
        """The run's identity."""
        return self.run.run_id

    @property
    def lr(self) -> float | None:
        """Peak learning rate; None for a probe."""
        return None if isinstance(self.run, ProbeRun) else self.run.settings.lr

    @property
    def seed(self) -> int | None:
        """Seed; None for a probe that has none."""
        return None if isinstance(self.run, FeaturesProbe | LikenessProbe) else self.run.seed

    @property
    def flops(self) -> float:
        """FLOPs of all forward and backward passes: for a random-feature model 6 a sample and feature."""
        if isinstance(self.run, LikenessProbe):
            return 0.0
        if isinstance(self.run, CommandRun):
            return self.run.flops_per_token * self.run.num_tokens
        if isinstance(self.run, TrainRun | AlignmentProbe | SharpnessProbe):
            passes = 1 if isinstance(self.run, TrainRun) else self.run.passes
            per_token = training_flops_per_token(self.run.model, self.run.model.vocabulary)
            return per_token * self.run.num_tokens * passes
        return 6.0 * self.run.model.features * self.run.num_tokens

    @property
    def asks(self) -> bool:
        """Whether anything is asked of the run besides its last weights."""
        return self.reading is not None or self.asked is not _NOTHING

    @property
    def everything_asked(self) -> Asked:
        """All that the run is to be read for, its score included, or to keep."""
        return self.asked if self.reading is None else self.asked.joined(Asked(readings=(self.reading,)))

    def joined(self, other: "WantedRun") -> "WantedRun":
        """The same run for whoever wants either: no reading is its score, all are asked for."""
        return replace(self, reading=None, asked=self.everything_asked.joined(other.everything_asked))

    @property
    def share_needed(self) -> float:
        """The share of the run's steps that its score, all it is read for and every branch of it rest on."""
        if isinstance(self.run, ProbeRun) or (self.reading is None and not self.asked.checkpoints):
            return 1.0
        asked = self.everything_asked
        return max(*(reading.step for reading in asked.readings), *asked.checkpoints, 0) / self.run.settings.steps

    def __str__(self) -> str:
        if isinstance(self.run, ProbeRun):
            return " | ".join(part for part in (self.recipe, self.model, self.run.probe, self.detail) if part)
        point = ", ".join([f"lr {self.lr:g}", *changes_in_words(self.changes)])
        name = f"{self.recipe} | {self.model} | {point} | seed {self.seed}"
        if isinstance(self.run, TrainRun) and self.run.starts_from is not None:
            name += f" | {self.run.settings.steps} steps from step {self.run.starts_from.step}"
        return name if self.reading is None else f"{name} | {self.reading}"


def by_id(runs: Iterable[WantedRun], known: Mapping[str, WantedRun] | None = None) -> dict[str, WantedRun]:
    """`runs` by their id, after those `known`: each once, asked for all that any of them is wanted for."""
    found = dict(known or {})
    for run in runs:
        before = found.get(run.run_id)
        if run.asks:
            found[run.run_id] = (before or run).joined(run)
        elif before is None:
            found[run.run_id] = run
    return found
