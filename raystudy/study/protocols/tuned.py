"""`tuned`: a full sweep per recipe; the score is the loss at the recipe's own best learning rate.

The best learning rate is chosen on the primary metric; every other metric is read from that same model.
Without selection seeds the minimum of seed means is optimistic, and labelled so.
"""

import numpy as np

from raystudy.compare.scores import Scores
from raystudy.specs.protocol import TunedProtocol
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored
from raystudy.study.state import StudyState
from raystudy.study.sweep import Sweep, read_sweep


class Tuned(ProtocolKind):
    """The sweep of every recipe over one search space."""

    def __init__(self, name: str, spec: TunedProtocol) -> None:
        super().__init__(name)
        self.spec = spec
        self.lrs = spec.space.lr.values()

    def demand(self, state: StudyState) -> Demand:
        """Recipes x learning rates x seeds."""
        return Demand(state.grid(self.spec.model, state.recipes, self.lrs, self.spec.seeds))

    def sweep(self, state: StudyState, recipe: str, metric: str | None = None) -> Sweep:
        """One recipe's sweep; on the study's primary metric unless told."""
        return read_sweep(state, self.spec.model, recipe, self.lrs, self.spec.seeds, metric)

    def scored(self, state: StudyState) -> list[Scored]:
        """One protocol: each recipe at its own best learning rate."""
        sweeps = {recipe: self.sweep(state, recipe) for recipe in state.recipes}
        chosen = {recipe: sweep.best if sweep.is_complete else None for recipe, sweep in sweeps.items()}
        runs = {
            recipe: state.grid(self.spec.model, [recipe], [self.lrs[best]], self.spec.seeds)
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
                self.demand(state).runs,
                model=self.spec.model,
                edges=edges,
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
