"""What `engine.config` may hold: nothing that changes what is trained, since a run's identity does not hold it."""

import pytest
from pydantic import ValidationError

from raystudy.specs.deepspeed_config import refused_keys
from raystudy.specs.engines import DeepSpeedEngine

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"bfloat16": {"enabled": True}}, "bfloat16 (say training.precision)"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage (say engine.zero_stage)"),
        ({"zero_optimization": {"cpu_offload": True}}, "zero_optimization.cpu_offload (say engine.offload)"),
        (
            {"zero_optimization": {"zero_quantized_weights": True}},
            "zero_optimization.zero_quantized_weights (not",
        ),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "zero_optimization.zero_quantized_gradients (not"),
        ({"zero_optimization": {"compute_grad_norm": False}}, "zero_optimization.compute_grad_norm (not known"),
        ({"zero_optimization": True}, "zero_optimization (must be a section"),
        ({"comms_logger": True}, "comms_logger (must be a section"),
        ({"curriculum_learning": {"enabled": True}}, "curriculum_learning (not known to leave what is trained"),
        ({"progressive_layer_drop": {"enabled": True}}, "progressive_layer_drop (not known"),
        ({"compression_training": {}}, "compression_training (not known"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow (not known"),
    ],
)
def test_a_key_that_may_change_what_is_trained_is_refused_with_the_reason(config, reason):
    with pytest.raises(ValidationError) as refusal:
        DeepSpeedEngine(kind="deepspeed", config=config)
    assert f"but got {reason}" in str(refusal.value)
    assert "It may hold: steps_per_print" in str(refusal.value)


def test_buckets_communication_and_logs_may_be_said_and_all_that_is_refused_is_told_at_once():
    config = {
        "zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": False, "stage3_max_live_parameters": 9},
        "aio": {"thread_count": 2},
        "comms_logger": {"enabled": True},
        "wall_clock_breakdown": True,
    }
    assert DeepSpeedEngine(kind="deepspeed", config=config).config == config
    assert len(refused_keys({**config, "fp16": {}, "sparse_gradients": True})) == 2
