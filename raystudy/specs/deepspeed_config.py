"""What of DeepSpeed's own configuration a study may say: speed, memory and logs, and nothing that changes training.

An allow-list, since DeepSpeed has other names for what a study says elsewhere (`bfloat16` is `bf16`), and sections that
change batches, gradients or weights: a run's identity holds none of them. A key that is not known here is refused.
"""

from collections.abc import Mapping
from typing import Any

# Where a study says what these keys would.
SAID_ELSEWHERE = {
    "train_batch_size": "training.batch_tokens",
    "train_micro_batch_size_per_gpu": "engine.micro_batch_tokens",
    "gradient_accumulation_steps": "engine.micro_batch_tokens",
    "optimizer": "training.optimizer",
    "scheduler": "training.schedule",
    "gradient_clipping": "training.clip",
    "fp16": "training.precision",
    "bf16": "training.precision",
    "bfloat16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "data_types": "training.precision",
    "prescale_gradients": "training.precision",
    "gradient_predivide_factor": "training.precision",
    "communication_data_type": "training.precision",
    "elasticity": "engine.workers",
    "activation_checkpointing": "engine.activation_checkpointing",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload",
    "zero_optimization.offload_param": "engine.offload",
    "zero_optimization.cpu_offload": "engine.offload",
    "zero_optimization.cpu_offload_param": "engine.offload",
}
# Of these sections every key, since none of them has to do with what is computed.
_WHOLE_SECTIONS = ("aio", "comms_logger", "flops_profiler", "timers", "tensorboard", "csv_monitor", "wandb", "comet")
_SECTION = "zero_optimization"
_KEYS = ("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state")
# How weights and gradients are cut and sent: results differ by rounding at most.
_SECTION_KEYS = (
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "use_multi_rank_bucket_allreduce",
    "allgather_partitions",
    "allgather_bucket_size",
    "overlap_comm",
    "round_robin_gradients",
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_module_granularity_threshold",
    "stage3_use_all_reduce_for_fetch_params",
    "stage3_allgather_sequential",
    "log_trace_cache_warnings",
    "enable_sanity_checks",
)


def refused_keys(config: Mapping[str, Any]) -> list[str]:
    """Why keys of `config` are refused, one clause each, dotted paths first; empty where all may be said."""
    refused = []
    for key, value in config.items():
        if key in _WHOLE_SECTIONS or key == _SECTION:
            if not isinstance(value, Mapping):
                refused.append(f"{key} (must be a section with keys of its own)")
            elif key == _SECTION:
                refused += [_reason(f"{key}.{inner}") for inner in value if inner not in _SECTION_KEYS]
        elif key not in _KEYS:
            refused.append(_reason(key))
    return refused


def allowed_keys() -> str:
    """All that may be said, in words."""
    sections = ", ".join(_WHOLE_SECTIONS)
    return f"{', '.join(_KEYS)}; sections {sections}; of {_SECTION} {', '.join(_SECTION_KEYS)}"


def _reason(path: str) -> str:
    place = SAID_ELSEWHERE.get(path)
    return f"{path} (say {place})" if place else f"{path} (not known to leave what is trained as it is)"
