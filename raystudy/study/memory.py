"""What workers of a study's models need of memory, by ZeRO stage: estimated, and measured where records say."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from raystudy.artifacts.weights import KEPT_BYTES
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.memory import MemoryEstimate, Training, estimate_memory, training_of
from raystudy.specs.memory_fit import HEADROOM, gib, largest_fitting, one_device
from raystudy.specs.model import count_parameters
from raystudy.specs.run import TrainRun
from raystudy.specs.study import StudyDecoder
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class ModelMemory:
    """Of one model: how it trains, the estimate of one worker by ZeRO stage, and what runs on record held at most.

    `measured`: bytes, 0 where no record says; `measured_of`: of the `device` or of the whole `process`, which is some
    hundred MiB more. `out_of_memory`: runs on record that ended so.
    """

    model: str
    training: Training
    stages: dict[int, MemoryEstimate]
    measured: int
    measured_of: str
    out_of_memory: int

    @property
    def chosen(self) -> MemoryEstimate:
        """The estimate at the study's stage."""
        return self.stages[self.training.zero_stage or 0]

    @property
    def smallest_total(self) -> int:
        """Bytes at the study's stage with one sequence at a time, the least that there can be."""
        return estimate_memory(self.training.smallest).total

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; bytes of one worker."""
        training = self.training
        return {
            "model": self.model,
            "device": training.device,
            "workers": training.workers,
            "precision": training.precision,
            "tokens_at_once": training.tokens_at_once,
            "offload": training.offload,
            "activation_checkpointing": training.activation_checkpointing,
            "zero_stage": training.zero_stage,
            "stages": {str(stage): estimate.as_dict() for stage, estimate in self.stages.items()},
            "smallest_total": self.smallest_total,
            "measured": self.measured or None,
            "measured_of": self.measured_of or None,
            "out_of_memory": self.out_of_memory,
        }


def model_memories(state: StudyState) -> Iterator[ModelMemory]:
    """Of every model that workers train under DeepSpeed, in the study's order."""
    for name, model in state.study.models.items():
        if isinstance(model, StudyDecoder) and isinstance(model.engine, DeepSpeedEngine):
            training = training_of(state.study, name, state.inputs.vocabulary)
            stages = {stage: estimate_memory(_at_stage(training, stage)) for stage in STAGES}
            yield ModelMemory(name, training, stages, *_on_record(state, name))


def _at_stage(training: Training, stage: int) -> Training:
    """The same at another stage, with as much offloading as is possible there."""
    if stage == training.zero_stage or training.offload == "none":
        return replace(training, zero_stage=stage)
    return replace(training, zero_stage=stage, offload="none" if stage == 0 else "optimizer")


def _on_record(state: StudyState, model: str) -> tuple[int, str, int]:
    most, of, without = 0, "", 0
    for run in make_wave(state).wanted.values():
        record = state.record(run)
        if run.model != model or record is None or not isinstance(run.run, TrainRun):
            continue
        without += record.status == "out-of-memory"
        peak = record.result.get("provenance", {}).get("peak_memory")
        if isinstance(peak, dict) and isinstance(peak.get("bytes"), int) and peak["bytes"] > most:
            most, of = peak["bytes"], str(peak.get("of", ""))
    return most, of, without


def weights_line(memory: ModelMemory) -> str | None:
    """What is to be known of weights too large to be kept; None where they are kept."""
    training = memory.training
    num_bytes = 4 * count_parameters(training.model, training.vocabulary).total
    if num_bytes <= KEPT_BYTES:
        return None
    return (
        f"weights of model {memory.model!r} are {gib(num_bytes)} in FP32, above the {KEPT_BYTES / 1e6:g} MB up to which"
        f" they are kept: name all validation sets and tasks before it is trained, since later ones need it trained "
        f"again. Every worker holds all of them for an evaluation"
    )


def enough_line(memory: ModelMemory, available: int | None, source: str) -> str:
    """Whether one device would do: by the estimate of plain torch on one, against `available` bytes of one worker.

    Args:
        available: bytes of one device; None where that is not known.
        source: whence that is known, or why not.
    """
    alone = one_device(memory.training)
    least = estimate_memory(alone.smallest).total
    if available is None:
        return (
            f"one device is enough for model {memory.model!r} if it has about {gib(least / HEADROOM)} or more "
            f"({source}); DeepSpeed is then only overhead, unless several workers are to be faster"
        )
    found = largest_fitting(alone, available)
    if found is None:
        return (
            f"one device is not enough for model {memory.model!r}: about {gib(least)} at one sequence at a time, of "
            f"{gib(available)} ({source})"
        )
    return (
        f"one device is enough for model {memory.model!r}: about {gib(estimate_memory(found).total)} with "
        f"{found.tokens_at_once:,} tokens at once, of {gib(available)} ({source}). DeepSpeed is only overhead, unless "
        f"several workers are to be faster: `engine: torch`"
    )
