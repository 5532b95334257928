"""A study, the digests of its shards and the records there are: all that a wave or a score depends on.

Pure data and look-ups; reads and writes nothing.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from raystudy.artifacts.results import Record
from raystudy.specs.command import CommandEngine
from raystudy.specs.downstream import DEFAULT_TASK_METRICS, ContinuationTask
from raystudy.specs.epochs import windows_share
from raystudy.specs.metrics import LOSS, read_metric, task_metric
from raystudy.specs.point import Point, point_of
from raystudy.specs.point_settings import settings_at
from raystudy.specs.reading import Scoring
from raystudy.specs.run import (
    COMMAND_NUMERICS,
    FEATURES_NUMERICS,
    NUMERICS,
    CommandRun,
    FeaturesRun,
    ProbeRun,
    ResolvedDecoder,
    TrainRun,
)
from raystudy.specs.study import StudyExternal, StudyFeatures, StudySpec
from raystudy.specs.training import SgdSettings, resolve_settings
from raystudy.study.frozen import FrozenRule
from raystudy.study.inputs import StudyInputs
from raystudy.study.metric_values import floor_of, score_of, sets_of
from raystudy.study.scoring import scored_by
from raystudy.study.wanted import WantedRun

__all__ = ["PRIMARY_METRIC", "StudyInputs", "StudyState", "WantedRun"]

PRIMARY_METRIC = LOSS  # equal-weighted mean over validation sets, nats per token; a study may name another

Value = TypeVar("Value")


@dataclass(frozen=True)
class StudyState:
    """What is asked and what is known; `frozen` are the learning-rate rules resolved earlier, by digest."""

    study: StudySpec
    inputs: StudyInputs
    records: Mapping[str, Record]
    frozen: Mapping[str, FrozenRule] = field(default_factory=dict)
    # What was worked out from study and inputs alone, kept: runs by what they are asked by, and their common parts.
    _runs: dict[tuple[str, str, float | Point, int, Scoring | None], WantedRun] = field(
        default_factory=dict, compare=False, repr=False
    )
    _templates: dict[tuple[str, float | Point], TrainRun | CommandRun | FeaturesRun] = field(
        default_factory=dict, compare=False, repr=False
    )

    def with_records(self, records: Mapping[str, Record]) -> "StudyState":
        """The same study with other records; the runs named so far keep their names."""
        return replace(self, records=records)

    @cached_property
    def _worked_out(self) -> dict[Hashable, Any]:
        return {}

    def once(self, key: Hashable, work_out: Callable[[], Value]) -> Value:
        """What `work_out` gives, worked out once for this state: a pure function of the state and `key`."""
        if key not in self._worked_out:
            self._worked_out[key] = work_out()
        value: Value = self._worked_out[key]
        return value

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of all recipes, in the study's order."""
        return tuple(recipe.name for recipe in self.study.recipes)

    @property
    def primary_metric(self) -> str:
        """What the verdict rests on and learning rates are chosen on."""
        return self.study.comparison.primary_metric

    @property
    def headline(self) -> tuple[str, ...]:
        """The recipes that are no controls (all, where fewer than two would be left)."""
        chosen = tuple(recipe.name for recipe in self.study.recipes if not recipe.control)
        return chosen if len(chosen) > 1 else self.recipes

    @property
    def unit(self) -> str:
        """Unit of the primary metric."""
        return "squared error" if self.study.is_synthetic else read_metric(self.primary_metric).unit

    @property
    def metrics(self) -> list[str]:
        """What is compared: the mean over validation sets, each set, then what the study asks for, tasks last."""
        sets = [PRIMARY_METRIC, *(f"{PRIMARY_METRIC}/{name}" for name in self.study.validation)]
        of_tasks = [task_metric(task, metric) for task in self.study.tasks for metric in DEFAULT_TASK_METRICS]
        asked = (self.primary_metric, *self.study.comparison.metrics)
        return list(dict.fromkeys([*sets, *asked, *of_tasks]))

    def want(
        self, model: str, recipe: str, point: float | Point, seed: int, scoring: Scoring | None = None
    ) -> WantedRun:
        """The run of `model` on `recipe` at one point of a search space, or a bare learning rate, and one seed.

        Its score is taken as `scoring` says.
        """
        place = point.key if isinstance(point, Point) else point
        key = (model, recipe, place, seed, scoring)
        named = self._runs.get(key)
        if named is None:
            plain = self._want(model, recipe, place, seed) if scoring is None else self.want(model, recipe, place, seed)
            named = self._runs[key] = plain if scoring is None else scored_by(plain, scoring)
        return named

    def _want(self, model: str, recipe: str, key: float | Point, seed: int) -> WantedRun:
        point = point_of(key)
        if (model, key) not in self._templates:
            self._templates[model, key] = self._template(model, point)
        own = {"shards": self.inputs.shards[recipe], "seed": seed}
        return WantedRun(self._templates[model, key].model_copy(update=own), recipe, model, changes=point.changes)

    def _template(self, model: str, point: Point) -> TrainRun | CommandRun | FeaturesRun:
        """A run of a model at a point, whose shape and settings all its runs share; shards and seed differ."""
        spec = self.study.models[model]
        if isinstance(spec, StudyFeatures):
            assert not point.changes, "the study's check has made sure that only learning rates are swept"
            return FeaturesRun(
                kind="train-features",
                shards="",
                model=spec.shape,
                settings=SgdSettings(**spec.training.model_dump(), lr=point.lr),
                seed=0,
                numerics=FEATURES_NUMERICS,
            )
        training, engine = self.study.settings_of(model), spec.engine
        settings = resolve_settings(settings_at(training, point), spec.shape, self.inputs.vocabulary, point.lr)
        if isinstance(engine, CommandEngine):
            return CommandRun(
                kind="train-command",
                shards="",
                model=spec.shape if isinstance(spec, StudyExternal) else self.decoder(model),
                settings=settings,
                seed=0,
                version=engine.version,
                precision=training.precision,
                numerics=COMMAND_NUMERICS,
            )
        run = TrainRun(
            kind="train",
            shards="",
            model=self.decoder(model),
            settings=settings,
            seed=0,
            engine=engine.kind,
            precision=training.precision,
            numerics=NUMERICS,
        )
        share = windows_share(self.study, model, self.inputs.vocabulary, run.num_tokens)
        return run.model_copy(update={"settings": run.settings.model_copy(update={"windows_share": share})})

    def decoder(self, model: str) -> ResolvedDecoder:
        """The decoder called `model` with the size of its vocabulary."""
        return ResolvedDecoder(**self.study.decoder(model).shape.model_dump(), vocabulary=self.inputs.vocabulary)

    def grid(
        self,
        model: str,
        recipes: Iterable[str],
        points: Iterable[float | Point],
        seeds: Iterable[int],
        scoring: Scoring | None = None,
    ) -> list[WantedRun]:
        """All runs of a model over recipes x points (or bare learning rates) x seeds."""
        chosen, draws = tuple(points), tuple(seeds)
        return [self.want(model, name, point, seed, scoring) for name in recipes for point in chosen for seed in draws]

    def record(self, wanted: WantedRun) -> Record | None:
        """The record of a wanted run, or None while it has none."""
        return self.records.get(wanted.run_id)

    def is_done(self, wanted: WantedRun) -> bool:
        """Whether the run has ended and, as far as it was finite, is evaluated on all validation sets and tasks."""
        record = self.record(wanted)
        if record is None:
            return False
        if isinstance(wanted.run, ProbeRun):
            return True
        readings, inputs = wanted.everything_asked.readings, self.inputs
        steps = wanted.run.settings.steps
        return record.is_measured(inputs.validation.values(), steps, readings, inputs.tasks.values())

    def is_out_of_memory(self, wanted: WantedRun) -> bool:
        """Whether the run ended for want of memory: done for its type of device, and missing as a score."""
        record = self.record(wanted)
        return record is not None and record.status == "out-of-memory"

    def loss(self, wanted: WantedRun, metric: str) -> float:
        """A run's score: inf for a diverged run, NaN for one that is missing, out of memory or unevaluated.

        A reading before the end of a run that diverged later is the score of a run of so many steps.
        """
        record, reading = self.record(wanted), wanted.reading
        if record is None or self.is_out_of_memory(wanted):
            return float("nan")
        is_at_the_end = reading is None or reading.step == wanted.run.settings.steps  # type: ignore[union-attr]
        if record.status == "diverged" and is_at_the_end:
            return float("inf")
        if reading is not None and record.has_diverged_at(reading):
            return float("inf")
        return score_of(record, metric, self.inputs, reading)

    def value(self, wanted: WantedRun, metric: str) -> float:
        """The metric as a record gives it, in its own direction: an accuracy is positive."""
        score = self.loss(wanted, metric)
        return -score if read_metric(metric).is_task else score

    def leaked_sets(self, recipe: str, metric: str) -> list[str]:
        """Validation sets behind `metric`, a task made from one too, of which the recipe holds text."""
        sets, task = sets_of(metric, self.inputs), self.study.tasks.get(read_metric(metric).chosen)
        if read_metric(metric).is_task and isinstance(task, ContinuationTask):
            sets = [task.validation]
        return [name for name in (self.inputs.leaked or {}).get(recipe, {}) if name in sets]

    def unigram_loss(self, wanted: WantedRun, metric: str) -> float:
        """The unigram floor of the run's recipe in the metric's unit; NaN where it is not known, and of a task."""
        return self._floor(wanted, metric, "unigram-loss")

    def trigram_loss(self, wanted: WantedRun, metric: str) -> float:
        """The trigram floor of the run's recipe, as `unigram_loss`."""
        return self._floor(wanted, metric, "trigram-loss")

    def _floor(self, wanted: WantedRun, metric: str, rows: str) -> float:
        record = self.record(wanted)
        return float("nan") if record is None else floor_of(record, metric, self.inputs, rows)
