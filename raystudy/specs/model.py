"""Models of a study file and their parameter and FLOP counts, without torch.

`DecoderSpec` is one configurable decoder; `vocabulary` is filled in from the tokenizer when a run is
planned. Knows nothing of data or of training.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Spec, canonical_json


class DecoderSpec(Spec):
    """A pre-norm decoder. What is left out is as in GPT-2 with exact GELU; `presets.py` holds named sets of fields."""

    kind: Literal["decoder"]
    layers: int = Field(ge=1, le=1000)
    width: int = Field(ge=2, le=2**20)
    heads: int = Field(ge=1, le=2**20)
    context: int = Field(ge=2, le=2**24, description="tokens that one sequence holds")
    mlp_ratio: int = Field(default=4, ge=1, le=1024, description="width of the MLP's hidden layer, in widths")
    tie_embeddings: bool = True
    kv_heads: int | None = Field(default=None, ge=1, description="heads of keys and values; null: as many as heads")
    mlp_width: int | None = Field(default=None, ge=1, le=2**24, description="of the hidden layer; null: by mlp_ratio")
    activation: Literal["gelu", "gelu-tanh", "relu", "silu"] = "gelu"
    gated: bool = Field(default=False, description="whether a second projection multiplies the MLP's hidden layer")
    positions: Literal["learned", "rotary", "none"] = "learned"
    position_offset: int = Field(default=0, ge=0, le=2**10, description="unused rows before the first learned position")
    rotary_share: float = Field(default=1.0, gt=0, le=1, description="share of each head's dimensions that is rotated")
    rotary_base: float = Field(default=10_000.0, gt=1, le=1e12)
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = Field(default=1e-5, gt=0, lt=1)
    qk_norm: bool = Field(default=False, description="whether each head's queries and keys are RMS-normalised")
    parallel_residual: bool = Field(default=False, description="whether attention and MLP read the same residual")
    attention_bias: bool = True
    mlp_bias: bool = True
    init: Literal["gpt2", "gpt-neox", "opt", "llama"] = Field(
        default="gpt2", description="whose published initialisation"
    )
    mup_base_width: int | None = Field(
        default=None, ge=1, description="width at which muP is the standard parametrisation; null: no muP"
    )
    mup_base_heads: int | None = Field(
        default=None, ge=1, description="heads at the base width; null: heads there are as wide, and fewer"
    )

    @property
    def head_width(self) -> int:
        """Dimensions of one head."""
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def hidden_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.width * self.mlp_ratio if self.mlp_width is None else self.mlp_width

    @property
    def rotary_width(self) -> int:
        """Dimensions of each head that are rotated."""
        return int(self.head_width * self.rotary_share) if self.positions == "rotary" else 0

    @property
    def num_positions(self) -> int:
        """Rows of the table of learned positions."""
        return self.context + self.position_offset if self.positions == "learned" else 0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "DecoderSpec":
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, but got width={self.width}, heads={self.heads}")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"kv_heads must divide heads, but got heads={self.heads}, kv_heads={self.kv_heads}")
        if self.positions == "rotary" and (self.rotary_width < 2 or self.rotary_width % 2):
            raise ValueError(
                f"rotary_share of a head's width must be an even number of 2 or more, but got rotary_share="
                f"{self.rotary_share:g} of {self.head_width}, which is {self.rotary_width}"
            )
        return self

    @model_validator(mode="after")
    def _every_field_counts(self) -> "DecoderSpec":
        """A field without effect would give one model two identities."""
        rules = [
            ("mlp_ratio", "mlp_width is null", self.mlp_width is None),
            ("position_offset", "positions are learned", self.positions == "learned"),
            ("rotary_share", "positions are rotary", self.positions == "rotary"),
            ("rotary_base", "positions are rotary", self.positions == "rotary"),
            ("mup_base_heads", "mup_base_width is given", self.mup_base_width is not None),
        ]
        for name, condition, holds in rules:
            value, default = getattr(self, name), DecoderSpec.model_fields[name].default
            if value != default and not holds:
                raise ValueError(f"{name} may be given only where {condition}, but got {value}. Leave it out")
        base, heads = self.mup_base_width, self.mup_base_heads
        if base is not None and heads is not None and base % heads:
            raise ValueError(f"mup_base_heads must divide mup_base_width, but got {base} and {heads}")
        return self

    @model_validator(mode="after")
    def _null_has_no_second_name(self) -> "DecoderSpec":
        """A number that null stands for becomes null: both are one model, which has one identity."""
        for name, stood_for in (("kv_heads", self.heads), ("mlp_width", self.width * self.mlp_ratio)):
            if getattr(self, name) == stood_for:
                object.__setattr__(self, name, None)  # frozen from here on
        return self


class RandomFeaturesSpec(Spec):
    """A trained linear head on fixed random features (a setting like that of the paper's theorem).

    Learns from synthetic domains only: squared loss, stochastic gradient descent from a head of zero.
    """

    kind: Literal["random-features"]
    features: int = Field(ge=1, le=2**12)
    draw: int = Field(default=0, ge=0, lt=2**31, description="draws the features anew")


class ExternalModel(Spec):
    """A model that only the trainer of an `engine: command` knows; `settings` say to it which."""

    kind: Literal["external"]
    parameters: int = Field(ge=1, lt=2**53, description="without embeddings, as tokens_per_parameter counts")
    flops_per_token: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="forward and backward; null: 6 a parameter (Kaplan et al., arXiv 2001.08361)"
    )
    context: int = Field(default=1, ge=1, le=2**24, description="tokens of one sequence; 1: batches count tokens alone")
    settings: dict[str, Any] = Field(
        default={}, description="whatever the trainer is to know of it; part of the runs' identity"
    )

    @model_validator(mode="after")
    def _settings_have_an_identity(self) -> "ExternalModel":
        try:
            canonical_json(self.settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings must be finite numbers, text, lists and maps, but: {error}") from error
        return self

    @property
    def training_flops_per_token(self) -> float:
        """FLOPs of forward and backward per trained token."""
        return 6.0 * self.parameters if self.flops_per_token is None else self.flops_per_token


Model = Annotated[DecoderSpec | RandomFeaturesSpec | ExternalModel, Field(discriminator="kind")]


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
    """Parameters of the decoder as `train/` builds it: biases and gains of norms counted.

    A tied head adds none. Token and position embeddings are `embedding`.
    """
    width, hidden = model.width, model.hidden_width
    projected = (model.heads + 2 * model.num_kv_heads) * model.head_width  # queries, keys and values
    attention = width * projected + width * width + (projected + width) * model.attention_bias
    if model.qk_norm:
        attention += 2 * model.head_width
    inward = hidden * (2 if model.gated else 1)
    mlp = width * inward + hidden * width + (inward + width) * model.mlp_bias
    norm = width * (2 if model.norm == "layer" else 1)
    return ParameterCounts(
        non_embedding=model.layers * (attention + mlp + 2 * norm) + norm,
        embedding=(vocabulary + model.num_positions) * width,
        head=0 if model.tie_embeddings else vocabulary * width,
    )


def non_embedding_parameters(model: DecoderSpec | ExternalModel, vocabulary: int) -> int:
    """What tokens-per-parameter means."""
    if isinstance(model, ExternalModel):
        return model.parameters
    return count_parameters(model, vocabulary).non_embedding


def training_flops_per_token(model: DecoderSpec, vocabulary: int) -> float:
    """FLOPs of forward and backward per trained token: 6 N + 12 L d T.

    N counts the matrices a token passes through: non-embedding parameters and the head, tied or not
    (Kaplan et al., arXiv 2001.08361, section 2.1); 12 L d T is attention's share (Chowdhery et al., arXiv
    2204.02311, appendix B), the causal half not subtracted.
    """
    passed = count_parameters(model, vocabulary).non_embedding + vocabulary * model.width
    return 6.0 * passed + 12.0 * model.layers * model.width * model.context
