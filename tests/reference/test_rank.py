"""One rank by itself: what it is told, what DeepSpeed is told, and its share of a batch; nothing trains here."""

import pytest
import torch.distributed as dist

from raystudy.errors import RaystudyError
from raystudy.reference.config import deepspeed_config
from raystudy.reference.fitting import rows_that_fit
from raystudy.reference.training import share_of
from raystudy.reference.world import World, join
from raystudy.specs.engines import DeepSpeedEngine
from tests.reference.cases import a_case

PLACE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


def an_engine(**fields) -> DeepSpeedEngine:
    return DeepSpeedEngine(kind="deepspeed", **fields)


def test_shares_are_contiguous_whole_and_differ_by_one_at_most():
    for size in (1, 2, 3, 5):
        for count in (1, 5, 7, 16):
            shares = [share_of(count, World(rank, size, rank, "cpu")) for rank in range(size)]
            assert [index for first, last in shares for index in range(first, last)] == list(range(count))
            lengths = [last - first for first, last in shares]
            assert max(lengths) - min(lengths) <= 1


def test_the_largest_part_that_fits_is_worked_out_from_two_small_ones():
    assert rows_that_fit(one=110, two=210, room=1000, most=64) == 9
    assert rows_that_fit(one=110, two=210, room=1010, most=64) == 10
    assert rows_that_fit(one=110, two=210, room=10_000, most=64) == 64
    assert rows_that_fit(one=110, two=210, room=-5, most=64) == 1
    assert rows_that_fit(one=110, two=110, room=1000, most=64) == 64  # a part that takes nothing


def test_a_rank_that_is_told_no_group_says_what_it_lacks(monkeypatch):
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(RaystudyError, match=r"must be told its group by RANK, .*, but MASTER_PORT is not set"):
        join("cpu")
    assert not dist.is_initialized()


def test_a_rank_that_is_to_use_a_gpu_where_there_is_none_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RaystudyError, match="needs a CUDA device"):
        join("cuda")


def test_deepspeed_is_told_what_the_study_says_and_a_users_own_section_is_merged_in():
    run = a_case("x")
    engine = an_engine(zero_stage=2, offload="optimizer", config={"zero_optimization": {"overlap_comm": False}})
    config = deepspeed_config(run, engine, 3)
    assert config["zero_optimization"] == {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "overlap_comm": False,
    }
    assert config["gradient_clipping"] == 1.0
    assert config["gradient_accumulation_steps"] == 3
    assert not {"optimizer", "scheduler", "bf16", "fp16"} & set(config)
    unclipped = run.model_copy(update={"settings": run.settings.model_copy(update={"clip": None})})
    assert deepspeed_config(unclipped, engine, 1)["gradient_clipping"] == 0.0
    assert engine.config == {"zero_optimization": {"overlap_comm": False}}


def test_gradients_of_bf16_weights_are_added_in_fp32_wherever_deepspeed_can():
    run = a_case("x", precision="bf16-master")
    for stage in (1, 2, 3):
        config = deepspeed_config(run, an_engine(zero_stage=stage), 1)
        assert (config["bf16"], config["data_types"]) == ({"enabled": True}, {"grad_accum_dtype": "fp32"})
    assert "data_types" not in deepspeed_config(run, an_engine(zero_stage=0), 1)
