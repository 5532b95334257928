"""How the ranks that Ray Train starts find one another: what a launcher like torchrun would tell them.

Ray Train's own backend for torch loads torch in the trial and in the controller too, seconds of a short run's start,
and listens on all addresses. Here ranks on one node meet through a file and talk over the loopback device alone; those
of several nodes meet at a port of rank 0's node. They join their group themselves (reference/world.py).
"""

import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from raystudy.execute.groups import make_group_folder, remove_group_folders

_MEETING = "RAYSTUDY_MEETING"
_START = "RAYSTUDY_START"


class RankConfig(BackendConfig):  # type: ignore[misc]
    """Names the backend."""

    @property
    def backend_cls(self) -> type["RankBackend"]:
        """The backend."""
        return RankBackend


class RankBackend(Backend):  # type: ignore[misc]
    """Called in Ray Train's controller; functions that it hands to `execute` are called in the workers."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        """The workers are there; tell them where to meet."""
        is_one_node = len(set(worker_group.execute(_node))) == 1
        meeting = worker_group.execute_single(0, _place_to_meet, is_one_node=is_one_node)
        worker_group.execute(_learn, {**meeting, _START: f"start-{time.time_ns():020d}"})

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        """The work has ended, or some worker has gone."""
        worker_group.execute_single(0, _leave_place)


def take_place() -> Path | None:
    """In the worker's thread that trains: note its rank as a launcher does; the file to meet at, if it is one."""
    context = ray.train.get_context()
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    return Path(os.environ[_MEETING]) if _MEETING in os.environ else None


def start_name() -> str:
    """In a worker: a name for this start of all workers, the same on all ranks; later ones sort after it."""
    return os.environ[_START]


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _place_to_meet(*, is_one_node: bool) -> dict[str, str]:
    """Environment variables for all ranks."""
    remove_group_folders()
    if is_one_node:
        device = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        return {_MEETING: str(make_group_folder() / "meeting"), **device}
    address = ray.util.get_node_ip_address()
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
        return {"MASTER_ADDR": address, "MASTER_PORT": str(free.getsockname()[1])}


def _learn(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def _leave_place() -> None:
    if _MEETING in os.environ:
        shutil.rmtree(Path(os.environ[_MEETING]).parent, ignore_errors=True)
