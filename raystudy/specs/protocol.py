"""Protocols of a study file: rules that say which runs they want and how a recipe gets its score.

Only what is written in the file; `study/protocols/` holds what each kind does.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Name, Spec
from raystudy.specs.reading import ScoredRun
from raystudy.specs.space import LearningRate, SearchSpace

# Not strict: inside a learning-rate rule they arrive as a Python list. Each seed stays strict.
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1, strict=False)]


class LearningRateRule(Spec):
    """An absolute learning rate (a plain number in the file), or a ratio to a tuned one.

    `{ratio: 0.1, baseline: R, space: S}` means 0.1 x the learning rate that is best for the protocol's
    own model on recipe R over search space S (argmin of seed means), at 2 significant digits.
    `{ratio: 0.1, best_on_average: true, space: S}`: 0.1 x the learning rate with the lowest mean loss over all
    recipes that are no controls, among those at which every run is finite.
    With `model: M` the sweep is made with model M: a learning rate carried over from another model or budget.
    Of a space with more axes the learning rate of the best point counts; its other settings only `with_settings`.
    """

    absolute: LearningRate | None = None
    ratio: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    baseline: Name | None = Field(default=None, description="a recipe, or one of the study's `baselines`")
    best_on_average: bool = Field(default=False, description="in place of a baseline: best on average over recipes")
    model: Name | None = Field(default=None, description="of the sweep; default: the protocol's own")
    space: SearchSpace | None = None
    seeds: Seeds | None = Field(default=None, description="seeds of the baseline sweep; default: the protocol's")
    with_settings: bool = Field(default=False, description="take the other settings of the sweep's best point too")

    @model_validator(mode="before")
    @classmethod
    def _number_is_absolute(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"absolute": value} if is_number else value

    @model_validator(mode="after")
    def _one_rule(self) -> "LearningRateRule":
        if self.absolute is not None:
            relative = (self.ratio, self.baseline, self.model, self.space, self.seeds)
            if self.best_on_average or self.with_settings or any(part is not None for part in relative):
                raise ValueError("an absolute learning rate goes with no ratio, baseline, model, space or seeds")
        elif self.ratio is None or self.space is None or (self.baseline is None and not self.best_on_average):
            raise ValueError(
                "a learning rate is a number, or has all of ratio, baseline and space "
                "(`best_on_average: true` may stand in place of the baseline)"
            )
        elif self.baseline is not None and self.best_on_average:
            raise ValueError(
                f"exactly one of baseline and best_on_average must be given, but got {self.baseline!r} too"
            )
        return self


class _Seeded(Spec):
    seeds: Seeds = (0,)

    @model_validator(mode="after")
    def _seeds_differ(self) -> "_Seeded":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, but got {list(self.seeds)}")
        return self


class TunedProtocol(_Seeded, ScoredRun):
    """A full sweep per recipe; a recipe's score is its loss at its own best learning rate."""

    kind: Literal["tuned"]
    model: Name
    space: SearchSpace


class _Repeated(_Seeded, ScoredRun):
    runs_per_score: int = Field(default=1, ge=1, description="seeds averaged into one score; more seeds are repeats")

    @model_validator(mode="after")
    def _groups(self) -> "_Repeated":
        if len(self.seeds) % self.runs_per_score:
            raise ValueError(
                f"runs_per_score must divide the number of seeds, "
                f"but got {self.runs_per_score} and {len(self.seeds)} seeds"
            )
        return self


class _SingleRate(_Repeated):
    model: Name
    lr: LearningRateRule


class ReducedLrProtocol(_SingleRate):
    """One run per recipe and seed at a much reduced learning rate."""

    kind: Literal["reduced-lr"]


class StandardLrProtocol(_SingleRate):
    """One run per recipe and seed at the standard learning rate, whose rule says which that is."""

    kind: Literal["standard-lr"]


class LrLadderProtocol(_Repeated):
    """One candidate per learning rate of the space, named `<name>@<lr>`; other axes have one value each."""

    kind: Literal["lr-ladder"]
    model: Name
    space: SearchSpace

    @model_validator(mode="after")
    def _one_point_a_rate(self) -> "LrLadderProtocol":
        points = self.space.points()
        swept = [axis for axis in self.space.axes if axis != "lr" and len({p.settings[axis] for p in points}) > 1]
        if swept:
            raise ValueError(
                f"an lr-ladder must have one point per learning rate, but got several values of {', '.join(swept)}; "
                f"give each value a ladder of its own"
            )
        if len({point.lr for point in points}) < len(points):
            raise ValueError("an lr-ladder must have one point per learning rate, but a rate is drawn twice")
        return self


class Checkpoint(Spec):
    """The weights of a run of another protocol: for each recipe those of its own run, or for all those on `recipe`.

    The run is that of the probe's seed; of a `tuned` protocol the one at the recipe's best learning rate.
    """

    protocol: Name
    lr: LearningRate | None = Field(default=None, description="the rung of an lr-ladder; others have their own")
    step: int | None = Field(default=None, ge=1, description="weights kept after so many steps; default: the last")
    recipe: Name | None = None


class _ProbeProtocol(_Repeated):
    model: Name
    at: Literal["initialisation"] | Checkpoint = Field(
        default="initialisation", description="the weights at which it is measured"
    )
    preconditioned: bool = Field(default=False, description="as Adam sees gradients and curvature")
    batches: int = Field(default=8, ge=2, le=2**20, description="fixed batches of the recipe that are read")
    batch_tokens: int | None = Field(default=None, ge=1, lt=2**53, description="default: those of the training")
    precision: Literal["fp32", "fp64"] = "fp32"


class GradientAlignmentProtocol(_ProbeProtocol):
    """No training of its own: does a small step on the recipe lower validation loss? The larger the better.

    Of random-feature models an exact expectation at initialisation, to which only `model` belongs.
    """

    kind: Literal["gradient-alignment"]
    measure: Literal["inner-product", "cosine"] = "inner-product"


class SharpnessProtocol(_ProbeProtocol):
    """No training of its own: largest eigenvalue of the Hessian of the recipe's loss; the flatter the better."""

    kind: Literal["sharpness"]
    iterations: int = Field(default=40, ge=1, le=2**20, description="most products with the Hessian")
    tolerance: float = Field(default=1e-3, gt=0, lt=1, description="relative residual at which it ends sooner")


class LikenessProtocol(Spec):
    """No training, no model: how like a validation set the recipe's n-grams are; the liker the better."""

    kind: Literal["likeness"]
    order: int = Field(default=1, ge=1, le=3, description="1: unigrams, 2: bigrams, 3: trigrams")
    measure: Literal["cross-entropy", "cosine"] = "cross-entropy"
    tokens: int = Field(default=2**24, ge=1, lt=2**53, description="most tokens of a recipe that are counted")


KnownScores = Annotated[dict[Name, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]


class KnownProtocol(Spec):
    """Scores that are known without noise; lower is better. No runs.

    Given in the file, or `best-achievable`: for synthetic recipes the loss of the best predictor there is, at
    infinite width, which has a closed form.
    """

    kind: Literal["known"]
    scores: KnownScores | Literal["best-achievable"]


class TableProtocol(Spec):
    """Scores from a CSV, TSV or Parquet file: columns recipe, score, optionally seed; lower is better. No runs."""

    kind: Literal["table"]
    file: str


Protocol = Annotated[
    TunedProtocol
    | ReducedLrProtocol
    | StandardLrProtocol
    | LrLadderProtocol
    | GradientAlignmentProtocol
    | SharpnessProtocol
    | LikenessProtocol
    | KnownProtocol
    | TableProtocol,
    Field(discriminator="kind"),
]
