"""One rank by itself: what it is told, what DeepSpeed is told, and its share of a batch; nothing trains here."""

import socket
from dataclasses import replace

import pytest
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from raystudy.artifacts.storage import Storage
from raystudy.errors import RaystudyError
from raystudy.execute.first_cause import Cause
from raystudy.execute.ranks_study import keep_out_of_memory, with_less
from raystudy.reference.config import deepspeed_config
from raystudy.reference.fitting import rows_that_fit
from raystudy.reference.training import share_of
from raystudy.reference.world import World, join
from raystudy.specs.engines import DeepSpeedEngine
from tests.reference.cases import a_case
from tests.reference.conftest import free_port
from tests.reference.test_groups import a_task

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


@pytest.fixture
def launched(monkeypatch) -> str:
    """The variables of a launcher that starts rank 0 of three; the address."""
    port = free_port()
    for name, value in {**PLACE, "WORLD_SIZE": "3", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return f"127.0.0.1:{port}"


def test_ranks_that_do_not_come_are_named_within_the_time_that_they_have(launched, monkeypatch):
    port = int(launched.rpartition(":")[2])
    held = TCPStore("127.0.0.1", port, 3, is_master=True, wait_for_workers=False)  # as torchrun's agent does
    PrefixStore("raystudy-0", held).set("rank-1", "here")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(RaystudyError, match=rf"all 3 ranks must come to {launched} within 1 s, but rank 2 did not"):
        join("cpu", joining_seconds=1.0)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    del held
    with pytest.raises(RaystudyError, match=r"within 1 s, but ranks 1, 2 did not"):
        join("cpu", joining_seconds=1.0)
    assert not dist.is_initialized()


def test_a_rank_whose_first_rank_does_not_answer_says_where_it_asked(launched, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RaystudyError, match=rf"rank 0 must listen at {launched} \(MASTER_ADDR, MASTER_PORT\)"):
        join("cpu", joining_seconds=1.0)


def test_a_port_that_another_holds_is_one_message(launched):
    with (
        socket.create_server(("127.0.0.1", int(launched.rpartition(":")[2]))),
        pytest.raises(RaystudyError, match=r"See that .* the port is free"),
    ):
        join("cpu", joining_seconds=1.0)


@pytest.mark.parametrize("rows", [4, 0])
def test_where_a_launcher_started_the_ranks_memory_halves_the_micro_batch_of_their_next_start(tmp_path, rows):
    task = a_task(tmp_path, 2, workers=1)  # whose share is four sequences of 16 tokens
    engine, storage = DeepSpeedEngine.model_validate_json(task.group), Storage(tmp_path)
    starved = Cause("out-of-memory", "MemoryError: ", 0, task.specs()[0].run_id, rows=rows)
    assert with_less(task, engine, storage) == task
    for size in (32, 16):
        told = keep_out_of_memory(task, engine, replace(starved, rows=rows and starved.rows)).words
        assert told == f"MemoryError: ; started again it goes on with micro-batches of {size} tokens"
        task = with_less(task, engine, storage)
        assert DeepSpeedEngine.model_validate_json(task.group).micro_batch_tokens == size
        starved = replace(starved, rows=rows and size // 16)
    assert task.notes[-1] == "out of memory with micro-batches of 32 tokens; begun again with micro-batches of 16"
    assert keep_out_of_memory(task, engine, starved) == starved
    assert storage.runs.read(starved.run_id).status == "out-of-memory"


def test_a_micro_batch_that_the_study_says_is_not_made_smaller_by_a_launcher_s_next_start(tmp_path):
    task = a_task(tmp_path, 1, micro_batch_tokens=32)
    engine, starved = DeepSpeedEngine.model_validate_json(task.group), Cause("out-of-memory", "x", 0, task.task_id)
    assert keep_out_of_memory(task, engine, starved) == starved
    assert with_less(task, engine, Storage(tmp_path)) == task
    assert Storage(tmp_path).runs.read(task.task_id).status == "out-of-memory"
