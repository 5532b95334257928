"""A part of what a study wants: the runs of one model, or some of them."""

import math
from dataclasses import dataclass, replace

from raystudy.specs.study import StudySpec
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import Wave


@dataclass(frozen=True)
class Chosen:
    """The runs of `model`, and of those only what is of the recipe, learning rate and seed that are given."""

    model: str
    recipe: str | None = None
    lr: float | None = None
    seed: int | None = None

    def __str__(self) -> str:
        given = {"recipe": self.recipe, "learning rate": self.lr, "seed": self.seed}
        parts = [f"{name} {value}" for name, value in given.items() if value is not None]
        return ", ".join([f"model {self.model}", *parts])

    def holds(self, run: WantedRun) -> bool:
        """Whether `run` is chosen."""
        return (
            run.model == self.model
            and self.recipe in (None, run.recipe)
            and self.seed in (None, run.seed)
            and (self.lr is None or (run.lr is not None and math.isclose(run.lr, self.lr, rel_tol=1e-6)))
        )

    def part_of(self, wave: Wave, study: StudySpec) -> Wave:
        """The part of a wave that is chosen; of what waits, that of protocols of this model, if all of it is chosen."""
        is_whole = self.recipe is None and self.lr is None and self.seed is None
        specs = study.protocols.items() if is_whole else ()
        own = {name for name, spec in specs if getattr(spec, "model", None) == self.model}
        return replace(
            wave,
            todo=tuple(run for run in wave.todo if self.holds(run)),
            wanted={run_id: run for run_id, run in wave.wanted.items() if self.holds(run)},
            waiting=tuple(item for item in wave.waiting if _as_written(item[0]) in own),
            extensions=tuple(item for item in wave.extensions if _as_written(item[0]) in own),
        )


def _as_written(protocol: str) -> str:
    """A protocol's name in the study file: `<name>@step<k>` is one of several that it stands for."""
    return protocol.partition("@")[0]
