"""Which trainer makes a model's runs, and with what: part of a study's models.

Of a run's identity only the kind of engine is part: workers, ZeRO stage, offload and micro-batch change results by
rounding at most, so they may differ from launch to launch. Knows nothing of torch or of DeepSpeed.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raystudy.specs.base import Spec
from raystudy.specs.command import CommandEngine
from raystudy.specs.deepspeed_config import allowed_keys, refused_keys


class TorchEngine(Spec):
    """One process on one device: `raystudy/train`."""

    kind: Literal["torch"] = "torch"


class DeepSpeedEngine(Spec):
    """Several workers under DeepSpeed: `raystudy/reference`."""

    kind: Literal["deepspeed"]
    workers: int = Field(default=1, ge=1, le=2**14, description="processes that train one run together")
    cpus_per_worker: float = Field(
        default=0.9, gt=0, description="below a whole CPU, so that what starts the workers finds room beside them"
    )
    gpus_per_worker: int = Field(default=0, ge=0, le=1, description="1: each worker has a GPU of its own; 0: CPUs")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1, description="what workers share out: 1 optimizer, 2 and gradients, 3 and weights"
    )
    offload: Literal["none", "optimizer", "optimizer-and-weights"] = Field(
        default="none", description="what is held in the host's memory; stage 1 upward, weights at stage 3"
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute each layer's activations in the backward pass: less memory, more time"
    )
    micro_batch_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="most tokens of one worker in memory at once. auto: its share of the batch, or the part of it that "
        "memory holds",
    )
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="memory of one worker (its GPU's, or its share of a machine's), for what `raystudy plan` says of "
        "what fits; null: that of the machine that plans",
    )
    checkpoint_steps: int | None = Field(default=None, ge=1, description="steps between checkpoints; null: by minutes")
    checkpoint_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=10, description="minutes between checkpoints; null: by steps alone, or none"
    )
    on_other_world_size: Literal["refuse", "restart", "continue"] = Field(
        default="refuse",
        description="what to do with the checkpoint of a run that other numbers of workers began: refuse; restart: "
        "begin anew; continue: go on, with losses that agree within rounding only",
    )
    hang_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30, description="minutes without a step after which the worker that the others wait for is named"
    )
    max_failures: int = Field(default=3, ge=0, le=100, description="workers that died after which a run has failed")
    config: dict[str, Any] = Field(
        default={},
        description="DeepSpeed's own keys for buckets, communication and logs; what may change the training is refused",
    )

    @model_validator(mode="after")
    def _fits(self) -> "DeepSpeedEngine":
        least = {"none": 0, "optimizer": 1, "optimizer-and-weights": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload!r} needs zero_stage {least} or higher, but got zero_stage {self.zero_stage}"
            )
        refused = refused_keys(self.config)
        if refused:
            raise ValueError(
                f"config must hold only what changes no training, so that all engines train the same, "
                f"but got {', '.join(refused)}. Leave these out. It may hold: {allowed_keys()}"
            )
        return self

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """What each worker computes on."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def num_devices(self) -> float:
        """GPUs, or CPU cores where they have none, that all workers of a run hold."""
        return self.workers * (self.gpus_per_worker or self.cpus_per_worker)


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Engine = Annotated[
    Annotated[TorchEngine | DeepSpeedEngine | CommandEngine, Field(discriminator="kind")],
    BeforeValidator(_kind_alone),  # `engine: torch`
]
