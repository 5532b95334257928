"""Models of a study file and their parameter and FLOP counts, without torch.

`DecoderSpec` is one configurable decoder; `vocabulary` is filled in from the tokenizer when a run is
planned. Knows nothing of data or of training.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Spec


class DecoderSpec(Spec):
    """A GPT-2-like decoder: pre-norm, learned positions, GELU, biases, tied or untied head."""

    kind: Literal["decoder"]
    layers: int = Field(ge=1, le=1000)
    width: int = Field(ge=2, le=2**20)
    heads: int = Field(ge=1, le=2**20)
    context: int = Field(ge=2, le=2**24, description="tokens that one sequence holds")
    mlp_ratio: int = Field(default=4, ge=1, le=1024)
    tie_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "DecoderSpec":
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, but got width={self.width}, heads={self.heads}")
        return self


class RandomFeaturesSpec(Spec):
    """A trained linear head on fixed random features (a setting like that of the paper's theorem).

    Learns from synthetic domains only: squared loss, stochastic gradient descent from a head of zero.
    """

    kind: Literal["random-features"]
    features: int = Field(ge=1, le=2**12)
    draw: int = Field(default=0, ge=0, lt=2**31, description="draws the features anew")


Model = Annotated[DecoderSpec | RandomFeaturesSpec, Field(discriminator="kind")]


class ParameterCounts(Spec):
    """Parameters of a decoder; `non_embedding` is what tokens-per-parameter means."""

    non_embedding: int
    embedding: int
    head: int

    @property
    def total(self) -> int:
        """All trained parameters, a tied head counted once."""
        return self.non_embedding + self.embedding + self.head


def count_parameters(model: DecoderSpec, vocabulary: int) -> ParameterCounts:
    """Parameters of the decoder as `train/` builds it: biases and LayerNorm gains counted.

    A tied head adds none. Token and position embeddings are `embedding`.
    """
    width, hidden = model.width, model.width * model.mlp_ratio
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * hidden + hidden + width
    norms = 4 * width
    return ParameterCounts(
        non_embedding=model.layers * (attention + mlp + norms) + 2 * width,
        embedding=(vocabulary + model.context) * width,
        head=0 if model.tie_embeddings else vocabulary * width,
    )


def training_flops_per_token(model: DecoderSpec, vocabulary: int) -> float:
    """FLOPs of forward and backward per trained token: 6 N + 12 L d T.

    N counts the matrices a token passes through: non-embedding parameters and the head, tied or not
    (Kaplan et al., arXiv 2001.08361, section 2.1); 12 L d T is attention's share (Chowdhery et al., arXiv
    2204.02311, appendix B), the causal half not subtracted.
    """
    passed = count_parameters(model, vocabulary).non_embedding + vocabulary * model.width
    return 6.0 * passed + 12.0 * model.layers * model.width * model.context
