"""A run's settings and its engine as DeepSpeed's configuration. Batch, optimizer and schedule are ours, not its own."""

from collections.abc import Mapping
from typing import Any

from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun

_NEVER = 2**31 - 1  # steps between lines of DeepSpeed's own progress


def deepspeed_config(run: TrainRun, engine: DeepSpeedEngine, micro_batches: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given; `engine.config` is merged in, section by section.

    Micro-batches count one sequence for DeepSpeed, whatever they hold: it only multiplies that number up.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": run.settings.clip or 0.0,
        "zero_optimization": {"stage": engine.zero_stage, **_offload(engine)},
        "zero_allow_untested_optimizer": True,  # torch's own AdamW and SGD
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": _NEVER,
    }
    if run.precision == "bf16-master":
        config["bf16"] = {"enabled": True}
        if engine.zero_stage:  # at stage 0 DeepSpeed accumulates in the type of the working weights alone
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(config, engine.config)


def _offload(engine: DeepSpeedEngine) -> dict[str, Any]:
    on_host = {"device": "cpu", "pin_memory": engine.device == "cuda"}
    sections = {"none": (), "optimizer": ("offload_optimizer",)}.get(
        engine.offload, ("offload_optimizer", "offload_param")
    )
    return dict.fromkeys(sections, on_host)


def _merged(ours: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in more.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
