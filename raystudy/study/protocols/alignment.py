"""`gradient-alignment`: no training; recipes whose gradient at initialisation points along that of validation first."""

import numpy as np

from raystudy.compare.scores import FloatArray, Scores
from raystudy.specs.protocol import GradientAlignmentProtocol
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored
from raystudy.study.state import PRIMARY_METRIC, StudyState

METRIC = "gradient-alignment"


class GradientAlignment(ProtocolKind):
    """One probe per recipe and validation set; the score is its negative, since lower is better."""

    def __init__(self, name: str, spec: GradientAlignmentProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:
        """Recipes x validation sets."""
        sets = state.study.validation
        return Demand([state.want_alignment(self.spec.model, recipe, s) for recipe in state.recipes for s in sets])

    def scored(self, state: StudyState) -> list[Scored]:
        """One noise-free score per recipe: the gradients are exact expectations."""
        by_set = {name: self._alignments(state, name) for name in state.study.validation}
        by_metric = {f"{PRIMARY_METRIC}/{name}": values for name, values in by_set.items()}
        by_metric = {PRIMARY_METRIC: np.mean(list(by_set.values()), axis=0), **by_metric}
        scores = {
            metric: Scores(self.name, state.recipes, -values[:, None], noise_free=True)
            for metric, values in by_metric.items()
        }
        runs = self.demand(state).runs
        return [Scored(self.name, self.spec.kind, scores, all_runs=runs, model=self.spec.model)]

    def _alignments(self, state: StudyState, validation: str) -> FloatArray:
        """[recipe], NaN where the probe has no record."""
        digest, values = state.inputs.validation[validation], []
        for recipe in state.recipes:
            record = state.record(state.want_alignment(self.spec.model, recipe, validation))
            value = None if record is None else record.metric(METRIC, digest)
            values.append(np.nan if value is None else value)
        return np.array(values, dtype=np.float64)
