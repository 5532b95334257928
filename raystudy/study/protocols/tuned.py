"""`tuned`: a full sweep per recipe; the score is the loss at the recipe's own best learning rate.

Where a space has more axes it is the best point of them all. The best is chosen on the primary metric; every other
metric is read from that same model. Without selection seeds the minimum of seed means is optimistic, and labelled so.
"""

import numpy as np

from raystudy.compare.scores import Scores
from raystudy.specs.protocol import TunedProtocol
from raystudy.study.extension import ExtendedGrid, extended_grid
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored, demand_of, extension_of, with_parents
from raystudy.study.state import StudyState
from raystudy.study.sweep import Sweep, read_sweep


class Tuned(ProtocolKind):
    """The sweep of every recipe over one search space."""

    def __init__(self, name: str, spec: TunedProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def grid(self, state: StudyState) -> ExtendedGrid:
        """The points of the sweep, the same for all recipes."""
        spec = self.spec
        return extended_grid(state, spec.model, state.recipes, spec.space, spec.seeds, spec.scoring)

    def lrs(self, state: StudyState) -> tuple[float, ...]:
        """Its learning rates, as far as results ask for them; ascending."""
        return self.grid(state).lrs

    def demand(self, state: StudyState) -> Demand:
        """Recipes x points x seeds."""
        grid = self.grid(state)
        runs = state.grid(self.spec.model, state.recipes, grid.points, self.spec.seeds, self.spec.scoring)
        return demand_of(state, runs, (), extension_of(runs, grid.most_more))

    def sweep(self, state: StudyState, recipe: str, metric: str | None = None) -> Sweep:
        """One recipe's sweep; on the study's primary metric unless told."""
        spec, points = self.spec, self.grid(state).points
        return read_sweep(state, spec.model, recipe, points, spec.seeds, metric, spec.scoring, space=spec.space)

    def scored(self, state: StudyState) -> list[Scored]:
        """One protocol: each recipe at its own best point."""
        sweeps = {recipe: self.sweep(state, recipe) for recipe in state.recipes}
        chosen = {recipe: sweep.best if sweep.is_complete else None for recipe, sweep in sweeps.items()}
        points = self.grid(state).points
        runs = {
            recipe: state.grid(self.spec.model, [recipe], [points[best]], self.spec.seeds, self.spec.scoring)
            for recipe, best in chosen.items()
            if best is not None
        }
        scores = {metric: self._scores(state, metric, sweeps, chosen) for metric in state.metrics}
        edges = {r: s.edge for r, s in sweeps.items() if s.edge is not None}
        return [
            Scored(
                self.name,
                self.spec.kind,
                scores,
                runs,
                with_parents(state.grid(self.spec.model, state.recipes, points, self.spec.seeds, self.spec.scoring)),
                model=self.spec.model,
                edges=edges,
                scoring=self.spec.scoring,
            )
        ]

    def _scores(
        self, state: StudyState, metric: str, sweeps: dict[str, Sweep], chosen: dict[str, int | None]
    ) -> Scores:
        rows = []
        for recipe, best in chosen.items():
            if best is not None:
                rows.append(self.sweep(state, recipe, metric).losses[best])
            else:
                undone = float("inf") if sweeps[recipe].is_complete else float("nan")
                rows.append(np.full(len(self.spec.seeds), undone))
        return Scores(self.name, state.recipes, np.array(rows, dtype=np.float64))
