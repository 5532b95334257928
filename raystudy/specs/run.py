"""The identity of one run: everything that determines its result, and nothing else.

Not in it: names, validation sets, evaluation steps, workers, device. `run_id` is what the ledger,
the waves and the workers share.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from raystudy.specs.base import Spec, digest
from raystudy.specs.model import DecoderSpec
from raystudy.specs.training import RunSettings

NUMERICS = 1  # rises only when the golden-loss test changes: runs before and after are then not the same


class ResolvedDecoder(DecoderSpec):
    """A decoder with the size of its tokenizer's vocabulary."""

    vocabulary: int = Field(ge=2, le=2**16)


class TrainRun(Spec):
    """One training of one model on one recipe's shards at one setting and seed."""

    kind: Literal["train"]
    shards: str
    model: ResolvedDecoder
    settings: RunSettings
    seed: int
    engine: Literal["torch"] = "torch"
    precision: Literal["fp32"] = "fp32"
    numerics: int

    @property
    def run_id(self) -> str:
        """32 hexadecimal digits: the digest of this run's canonical JSON."""
        return digest(self)

    @property
    def num_tokens(self) -> int:
        """Tokens trained on."""
        return self.settings.steps * self.settings.batch_sequences * self.model.context


class ProbeRun(Spec):
    """One measurement without training a model of its own. Part of the format; nothing wants one yet."""

    kind: Literal["probe"]
    probe: str
    shards: str
    weights: str
    validation: str

    @property
    def run_id(self) -> str:
        """32 hexadecimal digits: the digest of this probe's canonical JSON."""
        return digest(self)


Run = TrainRun | ProbeRun
_ANY: TypeAdapter[Run] = TypeAdapter(Annotated[Run, Field(discriminator="kind")])


def read_run(text: str) -> Run:
    """The run in JSON `text`; raises pydantic's ValidationError for anything else."""
    return _ANY.validate_json(text)
