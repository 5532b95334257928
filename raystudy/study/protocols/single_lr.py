"""`reduced-lr` and `standard-lr`: one run per recipe and seed at one learning rate, the same for all recipes."""

from dataclasses import replace

import numpy as np

from raystudy.compare.scores import Scores
from raystudy.specs.point import Point
from raystudy.specs.protocol import LrLadderProtocol, ReducedLrProtocol, StandardLrProtocol
from raystudy.study.lr_rules import ResolvedRule, describe_rule, resolve_rule
from raystudy.study.protocols.base import (
    Demand,
    ProtocolKind,
    Scored,
    Waiting,
    asked_ahead,
    demand_of,
    extension_of,
    with_parents,
)
from raystudy.study.state import StudyState


class SingleLr(ProtocolKind):
    """All recipes at the learning rate that the rule gives."""

    def __init__(self, name: str, spec: ReducedLrProtocol | StandardLrProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:
        """The baseline sweep behind the rule, then recipes x seeds."""
        resolved = resolve_rule(state, self.spec.model, self.spec.lr, self.spec.seeds)
        extensions, baseline = extension_of(resolved.baseline_runs, resolved.most_more), resolved.baseline_runs
        if self.spec.lr.ratio == 1 and self.spec.lr.model in (None, self.spec.model):
            baseline = asked_ahead(state, baseline, self.spec.scoring)  # the chosen ones are scored themselves
        if resolved.point is not None:
            runs = state.grid(self.spec.model, state.recipes, [resolved.point], self.spec.seeds, self.spec.scoring)
            return demand_of(state, [*baseline, *runs], (), extensions)
        lr = next(run.lr for run in resolved.baseline_runs if run.lr is not None)
        likely = with_parents(state.grid(self.spec.model, state.recipes, [lr], self.spec.seeds, self.spec.scoring))
        tokens, flops = sum(run.run.num_tokens for run in likely), sum(run.flops for run in likely)
        return Demand(baseline, [Waiting(len(likely), resolved.reason, tokens, flops)], extensions)

    def scored(self, state: StudyState) -> list[Scored]:
        """One protocol once the rule is resolved."""
        spec = self.spec
        resolved = resolve_rule(state, spec.model, spec.lr, spec.seeds)
        if resolved.point is None:
            return []
        scored = score_at(state, self.name, spec.kind, spec.model, resolved.point, spec)
        runs = (*resolved.baseline_runs, *scored.all_runs)  # one may be here as the sweep's and as a branch's parent
        every_run = list({(run.run_id, run.reading, run.asked): run for run in runs}.values())
        edges = self._edges(state, resolved)
        return [replace(scored, lr_rule=describe_rule(spec.lr), all_runs=every_run, edges=edges)]

    def _edges(self, state: StudyState, resolved: ResolvedRule) -> dict[str, str]:
        """A rule that rests on the edge of its baseline's grid is as untuned as that baseline.

        A baseline that is no recipe of the comparison, or an average over recipes, stands for them all.
        """
        if resolved.edge is None:
            return {}
        baseline = self.spec.lr.baseline
        concerned = [baseline] if baseline in state.recipes else state.recipes
        return {str(recipe): resolved.edge for recipe in concerned}


def score_at(
    state: StudyState,
    name: str,
    kind: str,
    model: str,
    point: Point,
    spec: ReducedLrProtocol | StandardLrProtocol | LrLadderProtocol,
) -> Scored:
    """Every recipe's losses at `point`, over the protocol's seeds and as it scores them."""
    runs = {recipe: state.grid(model, [recipe], [point], spec.seeds, spec.scoring) for recipe in state.recipes}
    scores = {}
    for metric in state.metrics:
        rows = [[state.loss(run, metric) for run in runs[recipe]] for recipe in state.recipes]
        scores[metric] = Scores(name, state.recipes, np.array(rows, dtype=np.float64), spec.runs_per_score)
    all_runs = with_parents(run for row in runs.values() for run in row)
    rate, changes = point.lr, point.changes
    return Scored(name, kind, scores, runs, all_runs, model=model, lr=rate, changes=changes, scoring=spec.scoring)
