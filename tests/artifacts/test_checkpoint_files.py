"""A checkpoint as a file: what the safetensors package reads, written without a second copy of the state in memory."""

import resource
import tracemalloc
import types
import uuid

import numpy as np
import pytest
from safetensors.numpy import load_file
from upath import UPath

from raystudy.artifacts import node_room
from raystudy.artifacts.checkpoints import (
    Checkpoint,
    check_checkpoint_file,
    read_checkpoint_file,
    step_checkpoints,
    write_step_checkpoint,
)
from raystudy.errors import NodeFullError, StorageError

pytestmark = pytest.mark.timeout(60)

ARRAYS = {
    "weight/b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "optimizer/step": np.float32(7.0).reshape(()),
    "generator": np.frombuffer(b"abc", dtype=np.uint8),
    "flags": np.array([True, False]),
    "order": np.array([-1, 2**40], dtype=np.int64),
    "half": np.array([0.5], dtype=np.float16),
    "empty": np.zeros((0, 3), dtype=np.float32),
}


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_checkpoint_comes_back_as_it_was_and_is_a_file_of_safetensors(tmp_path, where, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path if where == "local" else UPath(f"memory://{uuid.uuid4().hex}/run")
    write_step_checkpoint(folder, Checkpoint("r", 3, ARRAYS, {"note": "ü"}))
    (path,) = step_checkpoints(folder)
    found = read_checkpoint_file(path, "r")
    assert (found.run_id, found.step, found.about) == ("r", 3, {"note": "ü"})
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    if where == "local":
        assert load_file(path).keys() == ARRAYS.keys()
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(StorageError, match="checksum is not that of its content"):
            check_checkpoint_file(path, "r")


def test_no_room_for_a_checkpoint_on_its_way_to_a_remote_storage_is_the_nodes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    folder = UPath(f"memory://{uuid.uuid4().hex}/run")
    write_step_checkpoint(folder, Checkpoint("r", 2, ARRAYS, {}))
    assert (tmp_path / "cache" / "files").is_dir()
    assert not list((tmp_path / "cache" / "files").iterdir()), "what was on its way must not stay"
    state = {"weight": np.ones(2**20, dtype=np.float32)}
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, kept[1]))  # as a disk that is full, by EFBIG
    try:
        with pytest.raises(NodeFullError, match=r"cache of a node must have room for 4,194,\d+ bytes.*File too large"):
            write_step_checkpoint(folder, Checkpoint("r", 3, state, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    monkeypatch.setattr(node_room.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=2**10))
    with pytest.raises(NodeFullError, match=r"1,024 bytes free\. Make room there, or set RAYSTUDY_CACHE"):
        write_step_checkpoint(folder, Checkpoint("r", 3, state, {}))
    assert not list((tmp_path / "cache" / "files").iterdir())
    assert len(step_checkpoints(folder)) == 1


def test_writing_a_checkpoint_takes_no_second_copy_of_it(tmp_path):
    state = {f"weight/{number}": np.ones(2**20, dtype=np.float32) for number in range(8)}
    tracemalloc.start()
    write_step_checkpoint(tmp_path, Checkpoint("r", 1, state, {}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20, "more than a quarter of one array"
