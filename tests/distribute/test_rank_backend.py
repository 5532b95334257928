"""Where ranks that Ray Train starts meet: a file and the loopback device on one node, else a port of the first's."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystudy.distribute import rank_backend
from raystudy.distribute.rank_backend import RankBackend, RankConfig

VARIABLES = (
    "RAYSTUDY_MEETING",
    "RAYSTUDY_START",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Workers:
    """Ray Train's worker group, all of it this process."""

    def __init__(self, *nodes: str) -> None:
        self._nodes = list(nodes)

    def execute(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return self._nodes if function.__name__ == "_node" else [function(*arguments) for _ in self._nodes]

    def execute_single(self, rank: int, function: Callable[..., Any], **arguments: Any) -> Any:
        assert rank == 0
        return function(**arguments)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_ranks_of_one_node_meet_at_a_file_and_talk_over_the_loopback_device_alone():
    RankBackend().on_start(Workers("a", "a", "a"), RankConfig())
    meeting = Path(os.environ["RAYSTUDY_MEETING"])
    assert meeting.parent.is_dir()
    assert not meeting.exists()
    if sys.platform == "linux":
        assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert "MASTER_PORT" not in os.environ
    meeting.touch()
    RankBackend().on_shutdown(Workers("a", "a", "a"), RankConfig())
    assert not meeting.parent.exists()


def test_ranks_of_several_nodes_meet_at_a_free_port_of_the_first_one(monkeypatch):
    monkeypatch.setattr(rank_backend.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    RankBackend().on_start(Workers("a", "b"), RankConfig())
    assert not {"RAYSTUDY_MEETING", "GLOO_SOCKET_IFNAME"} & os.environ.keys()
    with socket.create_server((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))):
        pass
    RankBackend().on_shutdown(Workers("a", "b"), RankConfig())


def test_each_start_of_the_workers_has_a_name_that_sorts_after_the_one_before():
    names = []
    for _ in range(3):
        RankBackend().on_start(Workers("a", "a"), RankConfig())
        names.append(rank_backend.start_name())
        RankBackend().on_shutdown(Workers("a", "a"), RankConfig())
    assert len(set(names)) == 3
    assert names == sorted(names)
