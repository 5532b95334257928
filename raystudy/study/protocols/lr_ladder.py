"""`lr-ladder`: one candidate per learning rate, for agreement as a function of the learning rate."""

from dataclasses import replace

from raystudy.specs.protocol import LrLadderProtocol
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored, demand_of
from raystudy.study.protocols.single_lr import score_at
from raystudy.study.state import StudyState


class LrLadder(ProtocolKind):
    """All recipes at every learning rate of a search space."""

    def __init__(self, name: str, spec: LrLadderProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:
        """Recipes x learning rates x seeds."""
        spec = self.spec
        return demand_of(state, state.grid(spec.model, state.recipes, spec.space.points(), spec.seeds, spec.scoring))

    def scored(self, state: StudyState) -> list[Scored]:
        """One protocol per learning rate, named `<name>@<lr>`."""
        spec, rungs = self.spec, []
        for point in spec.space.points():
            name = f"{self.name}@{point.lr:g}"
            rung = score_at(state, name, spec.kind, spec.model, point, spec)
            rungs.append(replace(rung, ladder=self.name, lr_rule=f"{point.lr:g}, absolute"))
        return rungs
