"""`likeness`: no training and no model; recipes whose n-grams are most like those of validation first."""

import numpy as np

from raystudy.compare.scores import FloatArray
from raystudy.specs.protocol import LikenessProtocol
from raystudy.specs.run import PROBE_NUMERICS, LikenessProbe
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored
from raystudy.study.protocols.probing import scores_by_metric
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun

METRIC = "likeness"


class Likeness(ProtocolKind):
    """One probe per recipe and validation set; the score is a cross-entropy, or the negative of a cosine."""

    def __init__(self, name: str, spec: LikenessProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:
        """Recipes x validation sets."""
        return Demand([self._probe(state, r, s) for r in state.recipes for s in state.inputs.validation])

    def scored(self, state: StudyState) -> list[Scored]:
        """One noise-free score per recipe: nothing is drawn."""
        by_set = {name: self._values(state, name) for name in state.inputs.validation}
        scores = scores_by_metric(self.name, state, by_set, noise_free=True)
        return [Scored(self.name, self.spec.kind, scores, all_runs=self.demand(state).runs)]

    def _values(self, state: StudyState, validation: str) -> FloatArray:
        """[recipe, 1], lower is better, NaN where the probe has no record."""
        digest, sign = state.inputs.validation[validation], -1.0 if self.spec.measure == "cosine" else 1.0
        records = [state.record(self._probe(state, recipe, validation)) for recipe in state.recipes]
        values = [None if record is None else record.metric(METRIC, digest) for record in records]
        return np.array([[np.nan if value is None else sign * value] for value in values], dtype=np.float64)

    def _probe(self, state: StudyState, recipe: str, validation: str) -> WantedRun:
        probe = LikenessProbe(
            kind="probe",
            probe="likeness",
            shards=state.inputs.shards[recipe],
            order=self.spec.order,
            measure=self.spec.measure,
            tokens=self.spec.tokens,
            validation=state.inputs.validation[validation],
            numerics=PROBE_NUMERICS,
        )
        detail = f"{self.spec.measure}, order {self.spec.order}, {validation}"
        return WantedRun(probe, recipe, "", detail=detail)
