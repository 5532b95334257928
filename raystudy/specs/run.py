"""The identity of one run: everything that determines its result, and nothing else.

Not in it: names, validation sets, evaluation steps, workers, device. `run_id` is what the ledger,
the waves and the workers share.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from raystudy.specs.base import Spec, digest
from raystudy.specs.model import DecoderSpec, RandomFeaturesSpec
from raystudy.specs.training import Precision, RunSettings, SgdSettings

NUMERICS = 1  # rises only when the golden-loss test changes: runs before and after are then not the same
FEATURES_NUMERICS = 1  # the same for random-feature models


class ResolvedDecoder(DecoderSpec):
    """A decoder with the size of its tokenizer's vocabulary."""

    vocabulary: int = Field(ge=2, le=2**16)


class _Identified(Spec):
    @property
    def run_id(self) -> str:
        """32 hexadecimal digits: the digest of this run's canonical JSON."""
        return digest(self)


class TrainRun(_Identified):
    """One training of one model on one recipe's shards at one setting and seed."""

    kind: Literal["train"]
    shards: str
    model: ResolvedDecoder
    settings: RunSettings
    seed: int
    engine: Literal["torch"] = "torch"
    precision: Precision = "fp32"
    numerics: int

    @property
    def num_tokens(self) -> int:
        """Tokens trained on."""
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


class ProbeRun(_Identified):
    """One measurement without training a model of its own, at the weights that `weights` names."""

    kind: Literal["probe"]
    probe: Literal["gradient-alignment"]
    shards: str
    model: RandomFeaturesSpec
    weights: Literal["initialisation"] = "initialisation"
    validation: str
    numerics: int

    @property
    def num_tokens(self) -> int:
        """None are trained on."""
        return 0


Run = TrainRun | FeaturesRun | ProbeRun
_ANY: TypeAdapter[Run] = TypeAdapter(Annotated[Run, Field(discriminator="kind")])


def read_run(text: str) -> Run:
    """The run in JSON `text`; raises pydantic's ValidationError for anything else."""
    return _ANY.validate_json(text)
