"""Training settings of a study file, and how they resolve to the settings of one run.

Resolved settings count steps and sequences; tokens and tokens per parameter are only ways to ask.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raystudy.specs.base import Name, Spec
from raystudy.specs.model import DecoderSpec, ExternalModel, non_embedding_parameters
from raystudy.specs.schedules import Schedule, Share, WarmupStableDecay
from raystudy.specs.space import LearningRate

_BUDGETS = ("steps", "tokens", "tokens_per_parameter")
_MATCH_EPOCHS = (
    "a model, or `target` for the truth's: a shorter run reads a part of each source, and repeats it as often as that "
    "model's run does"
)

Count = Annotated[int, Field(ge=1, lt=2**53)]  # what a JSON number holds exactly
Clip = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AdamW(Spec):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); weight decay acts on matrices only."""

    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)


class Sgd(Spec):
    """Stochastic gradient descent, with momentum where given (no Nesterov step).

    Weight decay is added to the gradient, and acts on matrices only.
    """

    kind: Literal["sgd"]
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)


def _adamw_unless_told(value: Any) -> Any:
    return {"kind": "adamw", **value} if isinstance(value, dict) else value


Optimizer = Annotated[
    Annotated[AdamW | Sgd, Field(discriminator="kind")],
    BeforeValidator(_adamw_unless_told),  # files older than `sgd` name no kind
]

Precision = Literal["fp32", "tf32", "bf16-autocast", "bf16-weights", "bf16-master"]


class TrainingSettings(Spec):
    """How runs train. Exactly one of `steps`, `tokens`, `tokens_per_parameter` sets the budget."""

    steps: Count | None = None
    tokens: Count | None = None
    tokens_per_parameter: float | None = Field(default=None, gt=0, le=1e6)
    batch_tokens: Count
    schedule: Schedule = WarmupStableDecay(kind="wsd")
    optimizer: Optimizer = AdamW()
    clip: Clip | None = Field(default=1.0, description="largest gradient norm; null: no clipping")
    match_epochs: Name | None = Field(default=None, description=_MATCH_EPOCHS)
    precision: Precision = Field(
        default="fp32",
        description="of products: fp32; tf32 (GPUs only); bf16-autocast (weights stay FP32); bf16-weights (weights in "
        "bf16, a negative control: small updates are rounded away); bf16-master (DeepSpeed only: products and working "
        "weights in bf16, FP32 master weights and optimizer)",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingSettings":
        given = [name for name in _BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(_BUDGETS)} must be given, but got {given or 'none'}")
        return self

    def overridden_by(self, override: "TrainingOverride | None") -> "TrainingSettings":
        """These settings with a model's own; a budget there replaces the budget here."""
        if override is None:
            return self
        changed = {name: getattr(override, name) for name in override.model_fields_set}
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        if any(changed.get(name) is not None for name in _BUDGETS):
            values.update(dict.fromkeys(_BUDGETS))
        return TrainingSettings(**{**values, **changed})


class TrainingOverride(Spec):
    """What a model changes in the study's training settings; what is left out stays."""

    steps: Count | None = None
    tokens: Count | None = None
    tokens_per_parameter: float | None = Field(default=None, gt=0, le=1e6)
    batch_tokens: Count | None = None
    schedule: Schedule | None = None
    optimizer: Optimizer | None = None
    clip: Clip | None = None
    match_epochs: Name | None = Field(default=None, description=_MATCH_EPOCHS)
    precision: Precision | None = None

    @model_validator(mode="after")
    def _at_most_one_budget(self) -> "TrainingOverride":
        given = [name for name in _BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"at most one of {', '.join(_BUDGETS)} may be given, but got {given}")
        null = [name for name in self.model_fields_set if name != "clip" and getattr(self, name) is None]
        if null:
            raise ValueError(f"only `clip` may be null, but got null for {', '.join(sorted(null))}; leave it out")
        return self


class RunSettings(Spec):
    """The settings of one run, resolved: part of its identity."""

    steps: int = Field(ge=1)
    batch_sequences: int = Field(ge=1)
    lr: LearningRate
    schedule: Schedule
    optimizer: Optimizer
    clip: float | None
    windows_share: float | None = Field(
        default=None, gt=0, lt=1, description="how much of each source is read, so that it repeats; null: all of it"
    )

    @model_validator(mode="after")
    def _schedule_fits(self) -> "RunSettings":
        self.schedule.check_fits(self.steps)
        return self


class FeatureTraining(Spec):
    """How a random-feature model trains: SGD, constant rate unless it decays, last weights unless averaged."""

    steps: Count
    batch_samples: Count = 16
    decay: Share = Field(default=0.0, description="share of the steps, the last, in which the rate falls to zero")
    average: Share = Field(default=0.0, description="share of the steps, the last, whose weights are averaged")


class SgdSettings(FeatureTraining):
    """The settings of one run of a random-feature model, resolved: part of its identity."""

    lr: LearningRate


def resolve_settings(
    settings: TrainingSettings, model: DecoderSpec | ExternalModel, vocabulary: int, lr: float
) -> RunSettings:
    """Settings of one run: budget in steps (rounded up), batch in sequences of the model's context.

    `batch_tokens` must be a multiple of the context (the study file's check says so first).
    """
    if settings.batch_tokens % model.context:
        raise ValueError(
            f"batch_tokens must be a multiple of the model's context, "
            f"but got {settings.batch_tokens} and context {model.context}"
        )
    if settings.steps is not None:
        steps = settings.steps
    else:
        tokens = settings.tokens
        if tokens is None:
            assert settings.tokens_per_parameter is not None
            tokens = round(settings.tokens_per_parameter * non_embedding_parameters(model, vocabulary))
        steps = max(1, -(-tokens // settings.batch_tokens))
    return RunSettings(
        steps=steps,
        batch_sequences=settings.batch_tokens // model.context,
        lr=lr,
        schedule=settings.schedule,
        optimizer=settings.optimizer,
        clip=settings.clip,
    )
