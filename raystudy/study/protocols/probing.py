"""`gradient-alignment` and `sharpness`: measurements on a model at given weights, without training one for them."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from raystudy.compare.scores import FloatArray, Scores
from raystudy.specs.protocol import Checkpoint, GradientAlignmentProtocol, SharpnessProtocol
from raystudy.specs.run import (
    FEATURES_NUMERICS,
    PROBE_NUMERICS,
    AlignmentProbe,
    FeaturesProbe,
    KeptWeights,
    SharpnessProbe,
)
from raystudy.specs.study import StudyFeatures
from raystudy.study.checkpoints import Unavailable, checkpoint_weights, training_runs
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored, Waiting
from raystudy.study.state import PRIMARY_METRIC, StudyState
from raystudy.study.wanted import WantedRun

Weights = KeptWeights | str  # or "initialisation"


def scores_by_metric(
    name: str, state: StudyState, by_set: dict[str, FloatArray], *, noise_free: bool, runs_per_score: int | None = None
) -> dict[str, Scores]:
    """Scores, lower is better, from those on each validation set [recipe, seed]; the mean counts each set the same."""
    metrics = {PRIMARY_METRIC: np.mean(list(by_set.values()), axis=0)}
    metrics |= {f"{PRIMARY_METRIC}/{key}": values for key, values in by_set.items()}
    return {
        metric: Scores(name, state.recipes, values, runs_per_score, noise_free=noise_free)
        for metric, values in metrics.items()
    }


class _DecoderProbes(ProtocolKind):
    """Probes of a decoder: recipes x seeds at the weights that the protocol names, one seed a column of the scores.

    At initialisation a seed draws the weights and chooses the batches; at a checkpoint it is the seed of the run.
    """

    def __init__(self, name: str, spec: GradientAlignmentProtocol | SharpnessProtocol) -> None:
        super().__init__(name)
        self._settings = spec

    @abstractmethod
    def named(self, state: StudyState, recipe: str, seed: int, weights: Weights) -> list[WantedRun]:
        """The probes of one recipe and seed, one or one for each validation set."""

    def probes(self, state: StudyState, recipe: str, seed: int, weights: Weights) -> list[WantedRun]:
        """The same, named once for a state."""
        key = ("probes", self.name, recipe, seed, weights)
        return state.once(key, lambda: self.named(state, recipe, seed, weights))

    @abstractmethod
    def by_set(self, state: StudyState) -> dict[str, FloatArray]:
        """Scores [recipe, seed] by validation set, lower is better: NaN missing, inf diverged."""

    def demand(self, state: StudyState) -> Demand:
        """The probes whose weights there are, the runs that those are of, and the probes that wait for theirs."""
        at, runs, waits = self._settings.at, list[WantedRun](), dict[str, list[WantedRun]]()
        if isinstance(at, Checkpoint):
            runs += training_runs(state, at)
        for recipe in state.recipes:
            for seed in self._settings.seeds:
                weights = self._weights(state, recipe, seed)
                if not isinstance(weights, Unavailable):
                    runs += self.probes(state, recipe, seed, weights)
                elif weights.waits_for:
                    waits.setdefault(weights.waits_for, []).extend(self.probes(state, recipe, seed, "initialisation"))
        return Demand(runs, [_waiting(reason, likely) for reason, likely in waits.items()])

    def scored(self, state: StudyState) -> list[Scored]:
        """One score a recipe and seed; batches are drawn, so they are not free of noise."""
        spec = self._settings
        scores = scores_by_metric(
            self.name, state, self.by_set(state), noise_free=False, runs_per_score=spec.runs_per_score
        )
        return [Scored(self.name, spec.kind, scores, all_runs=self.demand(state).runs, model=spec.model)]

    def measured(self, state: StudyState, metric: str, place: int = 0, dataset: str | None = None) -> FloatArray:
        """`metric` on `dataset` (default: the recipe's) of the probes numbered `place`, [recipe, seed]."""
        rows = []
        for recipe in state.recipes:
            digest = state.inputs.shards[recipe] if dataset is None else dataset
            rows.append([self._value(state, recipe, seed, metric, place, digest) for seed in self._settings.seeds])
        return np.array(rows, dtype=np.float64)

    def _value(self, state: StudyState, recipe: str, seed: int, metric: str, place: int, dataset: str) -> float:
        weights = self._weights(state, recipe, seed)
        if isinstance(weights, Unavailable):
            return float("inf") if weights.is_diverged else float("nan")
        record = state.record(self.probes(state, recipe, seed, weights)[place])
        if record is not None and record.status == "diverged":
            return float("inf")
        value = None if record is None else record.metric(metric, dataset)
        return float("nan") if value is None else value

    def _weights(self, state: StudyState, recipe: str, seed: int) -> Weights | Unavailable:
        at = self._settings.at
        return checkpoint_weights(state, at, recipe, seed) if isinstance(at, Checkpoint) else at

    def common(self, state: StudyState, recipe: str, seed: int, weights: Weights) -> dict[str, object]:
        """The fields that probes of a decoder share."""
        spec, model = self._settings, state.decoder(self._settings.model)
        tokens = spec.batch_tokens or state.study.settings_of(spec.model).batch_tokens
        return {
            "kind": "probe",
            "shards": state.inputs.shards[recipe],
            "model": model,
            "seed": seed,
            "weights": weights,
            "batches": spec.batches,
            "batch_sequences": tokens // model.context,
            "precision": spec.precision,
            "numerics": PROBE_NUMERICS,
        }

    def detail(self, seed: int, validation: str = "") -> str:
        """What tells probes of one recipe and model apart, in words."""
        at, where = self._settings.at, "at initialisation"
        if isinstance(at, Checkpoint):
            rung, step = f"@{at.lr:g}" if at.lr else "", f" step {at.step}" if at.step else ""
            where = f"at {at.protocol}{rung}{step}" + (f" on {at.recipe}" if at.recipe else "")
        parts = [where, f"seed {seed}"]
        return ", ".join([*parts, validation] if validation else parts)


def _waiting(reason: str, likely: Sequence[WantedRun]) -> Waiting:
    tokens, flops = sum(run.run.num_tokens for run in likely), sum(run.flops for run in likely)
    return Waiting(len(likely), reason, tokens, flops)


class GradientAlignment(_DecoderProbes):
    """One probe per recipe, seed and validation set; the score is its negative, since lower is better."""

    def __init__(self, name: str, spec: GradientAlignmentProtocol) -> None:
        super().__init__(name, spec)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:
        """Recipes x validation sets, of decoders x seeds."""
        if self._is_exact(state):
            return Demand([self._exact(state, r, s) for r in state.recipes for s in state.study.validation])
        return super().demand(state)

    def scored(self, state: StudyState) -> list[Scored]:
        """Of random-feature models one noise-free score per recipe: their gradients are exact expectations."""
        if not self._is_exact(state):
            return super().scored(state)
        scores = scores_by_metric(self.name, state, self._exact_by_set(state), noise_free=True)
        runs = self.demand(state).runs
        return [Scored(self.name, self.spec.kind, scores, all_runs=runs, model=self.spec.model)]

    def named(self, state: StudyState, recipe: str, seed: int, weights: Weights) -> list[WantedRun]:
        """One for each validation set, in the study's order."""
        common = self.common(state, recipe, seed, weights)
        return [
            WantedRun(
                AlignmentProbe.model_validate({**common, "probe": "decoder-gradient-alignment", "validation": digest}),
                recipe,
                self.spec.model,
                detail=self.detail(seed, name),
            )
            for name, digest in state.inputs.validation.items()
        ]

    def by_set(self, state: StudyState) -> dict[str, FloatArray]:
        """The negative of the measure, by validation set."""
        metric = {"inner-product": "gradient-alignment", "cosine": "gradient-cosine"}[self.spec.measure]
        metric = f"preconditioned-{metric}" if self.spec.preconditioned else metric
        found = {}
        for place, (name, digest) in enumerate(state.inputs.validation.items()):
            values = self.measured(state, metric, place, digest)
            found[name] = np.where(np.isposinf(values), values, -values)
        return found

    def _is_exact(self, state: StudyState) -> bool:
        return isinstance(state.study.models[self.spec.model], StudyFeatures)

    def _exact(self, state: StudyState, recipe: str, validation: str) -> WantedRun:
        model = state.study.models[self.spec.model]
        assert isinstance(model, StudyFeatures)
        probe = FeaturesProbe(
            kind="probe",
            probe="gradient-alignment",
            shards=state.inputs.shards[recipe],
            model=model.shape,
            validation=state.inputs.validation[validation],
            numerics=FEATURES_NUMERICS,
        )
        return WantedRun(probe, recipe, self.spec.model, detail=validation)

    def _exact_by_set(self, state: StudyState) -> dict[str, FloatArray]:
        """[recipe, 1], NaN where the probe has no record."""
        found = {}
        for name in state.study.validation:
            records = [state.record(self._exact(state, recipe, name)) for recipe in state.recipes]
            digest = state.inputs.validation[name]
            values = [None if r is None else r.metric("gradient-alignment", digest) for r in records]
            found[name] = -np.array([[np.nan if value is None else value] for value in values], dtype=np.float64)
        return found


class Sharpness(_DecoderProbes):
    """One probe per recipe and seed, of the loss on the recipe itself: the same on every validation set."""

    def __init__(self, name: str, spec: SharpnessProtocol) -> None:
        super().__init__(name, spec)
        self.spec = spec

    def named(self, state: StudyState, recipe: str, seed: int, weights: Weights) -> list[WantedRun]:
        """One."""
        limits = {"iterations": self.spec.iterations, "tolerance": self.spec.tolerance}
        common = self.common(state, recipe, seed, weights)
        probe = SharpnessProbe.model_validate({**common, "probe": "sharpness", **limits})
        return [WantedRun(probe, recipe, self.spec.model, detail=self.detail(seed))]

    def by_set(self, state: StudyState) -> dict[str, FloatArray]:
        """The sharpness under the name of every validation set."""
        metric = "preconditioned-sharpness" if self.spec.preconditioned else "sharpness"
        return dict.fromkeys(state.study.validation, self.measured(state, metric))
