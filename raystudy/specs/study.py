"""The study: one question, one file. The checked form of what a person writes.

Cross-references between sections are checked in `references.py`, files are joined in `load.py`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from raystudy.specs.base import Name, Spec
from raystudy.specs.command import CommandEngine
from raystudy.specs.downstream import DownstreamTask
from raystudy.specs.engines import DeepSpeedEngine, Engine, TorchEngine
from raystudy.specs.model import DecoderSpec, ExternalModel, RandomFeaturesSpec
from raystudy.specs.protocol import Protocol
from raystudy.specs.recipe import ExternalRecipe, Recipe, ValidationSet
from raystudy.specs.study_budget import StudyBudget
from raystudy.specs.synthetic import SyntheticDomains
from raystudy.specs.tracking import Tracking
from raystudy.specs.training import FeatureTraining, TrainingOverride, TrainingSettings

FORMAT = "raystudy-study/1"


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"gpus_per_run must be a share of one GPU (0 to 1) or a whole number, but got {gpus:g}")
    return gpus


_GPUS = "below 1: runs share a GPU, and each may take that share of its memory; 1 or more: whole GPUs"
Gpus = Annotated[float, Field(ge=0, allow_inf_nan=False, description=_GPUS), AfterValidator(_whole_above_one)]


class ResourcesOverride(Spec):
    """What one run of a model takes, where that is not what the study says of all."""

    cpus_per_run: float | None = Field(default=None, gt=0)
    gpus_per_run: Gpus | None = None


class StudyDecoder(DecoderSpec):
    """A decoder with what it changes in the study's training settings and resources, and what trains it."""

    training: TrainingOverride | None = None
    engine: Engine = TorchEngine()
    resources: ResourcesOverride | None = None

    @property
    def shape(self) -> DecoderSpec:
        """The model alone."""
        return DecoderSpec(**{name: getattr(self, name) for name in DecoderSpec.model_fields})


class StudyFeatures(RandomFeaturesSpec):
    """A random-feature model with its training settings."""

    training: FeatureTraining
    resources: ResourcesOverride | None = None

    @property
    def shape(self) -> RandomFeaturesSpec:
        """The model alone."""
        return RandomFeaturesSpec(kind=self.kind, features=self.features, draw=self.draw)


class StudyExternal(ExternalModel):
    """A model that its trainer alone knows, with what it changes in the study's training settings."""

    training: TrainingOverride | None = None
    engine: CommandEngine
    resources: ResourcesOverride | None = None

    @property
    def shape(self) -> ExternalModel:
        """The model alone."""
        return ExternalModel(**{name: getattr(self, name) for name in ExternalModel.model_fields})


StudyModel = Annotated[StudyDecoder | StudyFeatures | StudyExternal, Field(discriminator="kind")]


class ComparisonSettings(Spec):
    """How candidates are compared with the truth."""

    seed: int = Field(default=0, ge=0, description="of the generator behind every interval")
    resamples: int = Field(default=2000, ge=100, le=1_000_000)
    contrast: tuple[Name, Name] | None = Field(
        default=None, description="two candidates: does the first recover the truth better than the second?"
    )
    primary_metric: str = Field(
        default="loss",
        description="what the verdict rests on and learning rates are chosen on: 'loss' (the mean over validation "
        "sets, each counting the same), 'loss-token-weighted', 'loss/<validation set>', 'bits-per-byte', "
        "'bits-per-byte-byte-weighted', 'bits-per-byte/<validation set>' or 'task/<task>/<metric>'",
    )
    metrics: tuple[str, ...] = Field(
        default=(),
        description="compared too, beside 'loss', 'loss/<validation set>', the primary metric, and the accuracy and "
        "probability of every task",
    )
    success: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="the least difference that counts: the contrast's interval must lie above it; null: above 0",
    )


class Resources(Spec):
    """What one run takes, unless its model says otherwise, and how many run at once."""

    cpus_per_run: float = Field(default=1, gt=0)
    gpus_per_run: Gpus = 0
    workers: int | None = Field(
        default=None,
        ge=0,
        description="worker processes of --local; default: one per core, or as many as the GPUs hold",
    )
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="most tokens in memory at once; a larger batch is taken in parts whose gradients are added. "
        "auto: the whole batch, in halves where memory does not suffice. Changes results by rounding only",
    )
    checkpoint_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=10, description="minutes between checkpoints of a run, so that short runs have none; null: none at all"
    )

    @property
    def device(self) -> str:
        """What a run is made on."""
        return "cuda" if self.gpus_per_run > 0 else "cpu"

    @property
    def num_devices(self) -> float:
        """GPUs, or CPU cores where it has none, that a run holds."""
        return self.gpus_per_run or self.cpus_per_run

    def overridden_by(self, override: ResourcesOverride | None) -> "Resources":
        """These, with what `override` gives."""
        return self if override is None else self.model_copy(update=override.model_dump(exclude_none=True))


class StudySpec(Spec):
    """A whole study."""

    format: Literal["raystudy-study/1"] = "raystudy-study/1"
    name: Name
    tokenizer: str = Field(default="embedded", description="'embedded', or the path of a tokenizer.json")
    catalogues: tuple[str, ...] = Field(default=(), description="files whose recipes may be named in `recipes`")
    recipes: tuple[Recipe, ...] = Field(min_length=1)
    baselines: tuple[Recipe, ...] = Field(default=(), description="recipes that only learning-rate rules rest on")
    synthetic: SyntheticDomains | None = Field(default=None, description="the domains of synthetic recipes")
    validation: dict[Name, ValidationSet] = Field(min_length=1)
    tasks: dict[Name, DownstreamTask] = Field(default={}, description="multiple-choice tasks, measured like losses")
    models: dict[Name, StudyModel] = Field(min_length=1)
    training: TrainingSettings | None = Field(default=None, description="of decoders")
    protocols: dict[Name, Protocol] = Field(min_length=1)
    truth: Name
    comparison: ComparisonSettings = ComparisonSettings()
    resources: Resources = Resources()
    budget: StudyBudget | None = Field(default=None, description="what the study may cost in all; hard")
    storage: str | None = Field(
        default=None, description="a folder, relative to the study file, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX"
    )
    track: Tracking | None = Field(
        default=None, description="who else is told of every finished run (docs/tracking.md)"
    )

    def decoder(self, name: str) -> StudyDecoder:
        """The decoder called `name`; the study's check has made sure that it is one."""
        model = self.models[name]
        assert isinstance(model, StudyDecoder)
        return model

    @property
    def all_recipes(self) -> tuple[Recipe, ...]:
        """The recipes compared, then the baselines."""
        return (*self.recipes, *self.baselines)

    @property
    def is_synthetic(self) -> bool:
        """Whether models learn from synthetic domains: then all do, as the study's check has made sure."""
        return self.synthetic is not None

    @property
    def text_validation(self) -> dict[str, ValidationSet]:
        """The validation sets that are built from text."""
        return {name: validation for name, validation in self.validation.items() if validation.is_text}

    @property
    def has_external_data(self) -> bool:
        """Whether a recipe or a validation set is read by a trainer alone."""
        sources = (validation.source.kind for validation in self.validation.values())
        return any(isinstance(r, ExternalRecipe) for r in self.all_recipes) or "external" in sources

    def sequence_model(self, name: str) -> StudyDecoder | StudyExternal:
        """The model called `name`, which trains by the study's settings: none of random features."""
        model = self.models[name]
        assert not isinstance(model, StudyFeatures)
        return model

    def command_of(self, model: str) -> CommandEngine | None:
        """The trainer of its own that makes a model's runs; None where raystudy trains it."""
        engine = getattr(self.models[model], "engine", None)
        return engine if isinstance(engine, CommandEngine) else None

    @property
    def needs_torch(self) -> bool:
        """Whether raystudy itself trains or measures a decoder."""
        return any(
            isinstance(model, StudyDecoder) and self.command_of(name) is None for name, model in self.models.items()
        )

    def device_of(self, model: str) -> str:
        """What a model is trained on."""
        engine = self.sequence_model(model).engine
        return engine.device if isinstance(engine, DeepSpeedEngine) else self.resources_of(model).device

    def resources_of(self, model: str) -> Resources:
        """What one run of a model takes; of what is no model's, what the study says."""
        return self.resources.overridden_by(getattr(self.models.get(model), "resources", None))

    @property
    def own_resources(self) -> dict[str, Resources]:
        """Those of the models that have resources of their own, by name."""
        return {name: self.resources_of(name) for name, model in self.models.items() if model.resources is not None}

    @property
    def devices(self) -> frozenset[str]:
        """Every kind of device that runs of this study may be made on: "cpu", "cuda"."""
        of_models = {self.resources_of(name).device for name in self.models}  # of a group's model: its probes
        of_groups = {engine.device for engine in self.deepspeed_engines().values()}
        has_others = any(getattr(protocol, "model", None) is None for protocol in self.protocols.values())
        return frozenset(of_models | of_groups | ({self.resources.device} if has_others else set()))

    @property
    def all_resources(self) -> tuple[Resources, ...]:
        """Of every model whose runs one process makes."""
        groups = self.deepspeed_engines()
        return tuple(self.resources_of(name) for name in self.models if name not in groups) or (self.resources,)

    def deepspeed_engines(self) -> dict[str, DeepSpeedEngine]:
        """The engines of those models, by name, whose runs several workers train together."""
        decoders = {name: model for name, model in self.models.items() if isinstance(model, StudyDecoder)}
        return {name: m.engine for name, m in decoders.items() if isinstance(m.engine, DeepSpeedEngine)}

    def settings_of(self, model: str) -> TrainingSettings:
        """The training settings of a model, with its own changes."""
        assert self.training is not None
        return self.training.overridden_by(self.sequence_model(model).training)
