"""The identity of one run: everything that determines its result, and nothing else.

Not in it: names, validation sets, evaluation steps, workers, device. `run_id` is what the ledger,
the waves and the workers share.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from raystudy.specs.base import Spec, digest
from raystudy.specs.model import DecoderSpec, ExternalModel, RandomFeaturesSpec, training_flops_per_token
from raystudy.specs.training import Precision, RunSettings, SgdSettings

NUMERICS = 1  # rises only when the golden-loss test changes: runs before and after are then not the same
FEATURES_NUMERICS = 1  # the same for random-feature models
COMMAND_NUMERICS = 1  # of runs by a command: rises when what it is asked for changes
PROBE_NUMERICS = 1  # of probes on text: rises with NUMERICS, or when what a probe measures changes


class ResolvedDecoder(DecoderSpec):
    """A decoder with the size of its tokenizer's vocabulary."""

    vocabulary: int = Field(ge=2, le=2**16)


class _Identified(Spec):
    @property
    def run_id(self) -> str:
        """32 hexadecimal digits: the digest of this run's canonical JSON."""
        return digest(self)


class StartsFrom(Spec):
    """The run, and how many of its steps, after which weights, optimizer and place in the data are taken over."""

    run_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    step: int = Field(ge=1)


class TrainRun(_Identified):
    """One training of one model on one recipe's shards at one setting and seed.

    A branch, which `starts_from` another run, has settings of its own for the steps it adds.
    """

    kind: Literal["train"]
    shards: str
    model: ResolvedDecoder
    settings: RunSettings
    seed: int
    engine: Literal["torch", "deepspeed"] = "torch"
    precision: Precision = "fp32"
    starts_from: StartsFrom | None = None
    numerics: int

    @property
    def num_tokens(self) -> int:
        """Tokens trained on; those before a branch are its parent's."""
        return self.settings.steps * self.settings.batch_sequences * self.model.context


class FeaturesRun(_Identified):
    """One training of one random-feature model on one synthetic recipe at one setting and seed."""

    kind: Literal["train-features"]
    shards: str
    model: RandomFeaturesSpec
    settings: SgdSettings
    seed: int
    engine: Literal["numpy"] = "numpy"
    precision: Literal["fp64"] = "fp64"
    numerics: int

    @property
    def num_tokens(self) -> int:
        """Samples trained on, each of which has one label."""
        return self.settings.steps * self.settings.batch_samples


class CommandRun(_Identified):
    """One training by somebody's own trainer, whose `version` stands for the program.

    `shards` is the digest of shards, or of external data. How the trainer is called is not in it: arguments, paths,
    environment, timeouts.
    """

    kind: Literal["train-command"]
    shards: str
    model: Annotated[ResolvedDecoder | ExternalModel, Field(discriminator="kind")]
    settings: RunSettings
    seed: int
    engine: Literal["command"] = "command"
    version: str
    precision: Precision = "fp32"
    numerics: int

    @property
    def num_tokens(self) -> int:
        """Tokens trained on."""
        return self.settings.steps * self.settings.batch_sequences * self.model.context

    @property
    def flops_per_token(self) -> float:
        """FLOPs of forward and backward per trained token."""
        if isinstance(self.model, ExternalModel):
            return self.model.training_flops_per_token
        return training_flops_per_token(self.model, self.model.vocabulary)


class KeptWeights(Spec):
    """The weights that a run left after `step` steps."""

    run_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    step: int = Field(ge=1)


class ProbeRun(_Identified):
    """One measurement without training a model of its own; what probes of all kinds share."""

    kind: Literal["probe"]
    probe: str
    shards: str
    numerics: int

    @property
    def num_tokens(self) -> int:
        """Tokens read; 0 where what is measured has a closed form, or is counted when it is made."""
        return 0

    @property
    def passes(self) -> int:
        """Forward and backward passes over those tokens."""
        return 0


class FeaturesProbe(ProbeRun):
    """Gradient alignment of a random-feature model with one validation set: an exact expectation."""

    probe: Literal["gradient-alignment"]
    model: RandomFeaturesSpec
    weights: Literal["initialisation"] = "initialisation"
    validation: str


class DecoderProbe(ProbeRun):
    """What probes of a decoder share: its weights, and `batches` fixed batches of the recipe.

    At initialisation `seed` draws the weights; everywhere it chooses the batches.
    """

    model: ResolvedDecoder
    seed: int
    weights: Literal["initialisation"] | KeptWeights = "initialisation"
    batches: int = Field(ge=2)
    batch_sequences: int = Field(ge=1)
    precision: Literal["fp32", "fp64"] = "fp32"

    @property
    def batch_tokens(self) -> int:
        """Tokens of all the batches."""
        return self.batches * self.batch_sequences * self.model.context


class AlignmentProbe(DecoderProbe):
    """Gradient alignment of a recipe with one validation set, plain and preconditioned."""

    probe: Literal["decoder-gradient-alignment"]
    validation: str

    @property
    def num_tokens(self) -> int:
        """Of the recipe as many again for the preconditioner; of the validation set at most as many as the batches."""
        return 3 * self.batch_tokens

    @property
    def passes(self) -> int:
        """One gradient of everything read."""
        return 1


class SharpnessProbe(DecoderProbe):
    """Largest eigenvalues of the plain and the preconditioned Hessian of the loss on the recipe."""

    probe: Literal["sharpness"]
    iterations: int = Field(ge=1, description="most Lanczos steps for each of the two")
    tolerance: float = Field(gt=0, lt=1, description="relative residual at which the steps end sooner")

    @property
    def num_tokens(self) -> int:
        """Those of the batches."""
        return self.batch_tokens

    @property
    def passes(self) -> int:
        """At most: one gradient for the preconditioner, two for each product with a Hessian (Pearlmutter 1994)."""
        return 1 + 2 * 2 * self.iterations


class LikenessProbe(ProbeRun):
    """How like a validation set the recipe's n-grams are; no model."""

    probe: Literal["likeness"]
    order: int = Field(ge=1, le=3)
    measure: Literal["cross-entropy", "cosine"]
    tokens: int = Field(ge=1, description="most tokens of the recipe that are counted")
    validation: str


Probe = Annotated[FeaturesProbe | AlignmentProbe | SharpnessProbe | LikenessProbe, Field(discriminator="probe")]
_BY_KIND = Field(discriminator="kind")
Run = TrainRun | FeaturesRun | CommandRun | FeaturesProbe | AlignmentProbe | SharpnessProbe | LikenessProbe
_ANY: TypeAdapter[Run] = TypeAdapter(Annotated[TrainRun | FeaturesRun | CommandRun | Probe, _BY_KIND])


def read_run(text: str) -> Run:
    """The run in JSON `text`; raises pydantic's ValidationError for anything else."""
    return _ANY.validate_json(text)
