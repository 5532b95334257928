"""`result.json`: what a trainer of one's own leaves when a run has ended. `raystudy schema result` is its JSON Schema.

What the study asks of it besides (which losses, of which run) is checked where it is read.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from raystudy.specs.base import Spec

FORMAT = "raystudy-result/1"
_AGREE = 1e-4  # relative: a loss that was rounded for printing still agrees with its sums
Finite = Annotated[float, Field(allow_inf_nan=False)]
NATS = "nats per token"


class ResultMetric(Spec):
    """One number. Losses are called `loss`, in nats per token of the validation set's own tokens.

    The three lists, one entry a document, let comparisons resample documents; `value` is then their loss per token.
    """

    name: str = Field(min_length=1, description="`loss`; also `bits-per-byte`, `initial-loss`, or a name of your own")
    dataset: str = Field(description="the validation set's name in spec.json")
    value: Finite
    unit: str = NATS
    direction: Literal["lower-is-better", "higher-is-better"] = "lower-is-better"
    step: int | None = Field(default=None, ge=1, description="after which optimizer step; null: the last")
    loss_sum: tuple[Finite, ...] | None = Field(default=None, description="summed loss of each document, in nats")
    num_tokens: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="scored tokens of each document"
    )
    num_bytes: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="UTF-8 bytes of each document's text; may be left out"
    )

    @model_validator(mode="after")
    def _documents_agree(self) -> "ResultMetric":
        if self.loss_sum is None and self.num_tokens is None and self.num_bytes is None:
            return self
        told = f"of {self.name!r} on {self.dataset!r}"
        lists = [column for column in (self.loss_sum, self.num_tokens, self.num_bytes) if column is not None]
        if self.loss_sum is None or self.num_tokens is None or len({len(column) for column in lists}) > 1:
            raise ValueError(f"loss_sum and num_tokens {told} must be lists of one length, as num_bytes where given")
        if self.name != "loss" or sum(self.num_tokens) == 0:
            raise ValueError(f"lists {told} must belong to a `loss` and hold some tokens")
        loss = sum(self.loss_sum) / sum(self.num_tokens)
        if abs(loss - self.value) > _AGREE * max(abs(loss), 1e-9):
            raise ValueError(f"value {told} must be loss_sum over num_tokens, {loss:.8g}, but got {self.value:.8g}")
        return self


class CurveRow(Spec):
    """One logged step; further columns are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    step: int = Field(ge=0)
    loss: Finite | None = None


class CommandResult(Spec):
    """How one run ended. Written last, and whole: under another name first, then renamed."""

    format: Literal["raystudy-result/1"]
    run_id: str = Field(description="that of spec.json")
    status: Literal["finished", "diverged", "out-of-memory"] = Field(
        description="diverged: the loss is not finite any more; whatever can be tried again ends with an exit status"
    )
    metrics: tuple[ResultMetric, ...] = Field(
        default=(), description="of a finished run a `loss` on every validation set of spec.json"
    )
    curve: tuple[CurveRow, ...] = Field(default=(), description="training losses, in order")
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="wall time of the run over all attempts; null: that of the last attempt is taken"
    )
    num_tokens: int | None = Field(default=None, ge=0, description="trained on; null: as asked")
    epochs_per_source: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = Field(
        default=None, description="how often each source was read; null: worked out from the sizes"
    )
    cause: str = Field(default="", description="why it diverged or ran out of memory")
    provenance: dict[str, Any] = Field(default={}, description="whatever is worth keeping: versions, hosts, commits")
