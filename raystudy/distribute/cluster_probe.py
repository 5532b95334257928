"""What `raystudy doctor --address` asks of a cluster, as a small job on it: every node looks at itself and the storage.

Prints one line of JSON behind MARK; the laptop's side is cluster_doctor.py. Takes no CPU that runs could have.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import broken_promise, is_remote, read_bytes, remove_file
from raystudy.artifacts.node_room import cache_folder
from raystudy.artifacts.remote_retries import patience
from raystudy.artifacts.storage import open_storage
from raystudy.distribute.connection import import_ray
from raystudy.errors import RaystudyError
from raystudy.execute.doctor import nearest_folder

MARK = "raystudy-probe: "
# Together less than what the laptop waits for the job (cluster_doctor.py), so that what is found is told.
_ALL_NODES_SECONDS = 90.0  # from the first question to the last answer
_PATIENCE_SECONDS = 10.0  # with a storage that does not answer
_REMOVAL_SECONDS, _REMOVAL_PATIENCE_SECONDS = 20.0, 1.0  # of all, of one; what stays is a file of a few bytes
_PACKAGES = ("ray", "torch", "raystudy", "deepspeed")


def probe(storage: str | None) -> dict[str, Any]:
    """What every node says of itself. Must be called in a job."""
    ray = import_ray()
    ray.init(log_to_driver=False, logging_level="ERROR")
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    trouble = _write(storage, token, "driver")
    look, clock = (ray.remote(num_cpus=0, max_retries=0)(function) for function in (look_around, clock_there))
    asked = []
    for number, node in enumerate(node for node in ray.nodes() if node["Alive"]):
        place = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}
        asked.append((node, place, look.options(**place).remote(storage, token, f"node{number}")))
    nodes = []
    deadline = time.monotonic() + _ALL_NODES_SECONDS
    for number, (node, place, reference) in enumerate(asked):
        about: dict[str, Any] = {
            "address": node["NodeManagerAddress"],
            "id": node["NodeID"],
            "resources": node["Resources"],
        }
        try:
            about |= ray.get(reference, timeout=_left(deadline))
            before = time.time()
            there = ray.get(clock.options(**place).remote(), timeout=_left(deadline))
            after = time.time()
            about |= {"ahead_seconds": there - (before + after) / 2, "ahead_within": (after - before) / 2}
            about["is_seen"] = storage is None or trouble != "" or _reads(storage, token, f"node{number}")
        except Exception as error:
            about["trouble"] = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
        nodes.append(about)
    deadline = time.monotonic() + _REMOVAL_SECONDS
    for name in ("driver", *(f"node{number}" for number in range(len(asked)))):
        if time.monotonic() < deadline:
            _remove(storage, token, name)
    return {"nodes": nodes, "storage_trouble": trouble}


def _left(deadline: float) -> float:
    """Seconds left for an answer; a little for one that is there already, since a node before may have hung."""
    return max(1.0, deadline - time.monotonic())


def look_around(storage: str | None, token: str, name: str) -> dict[str, Any]:
    """What one node says of itself; runs there."""
    trouble = _write(storage, token, name)
    return {
        "host": socket.gethostname(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {package: _version(package) for package in _PACKAGES},
        "gpus_listed": _gpus_listed(),
        "disk": _disk(),
        "cache": str(cache_folder()),
        "storage_trouble": trouble,
        "sees_driver": storage is None or trouble != "" or _reads(storage, token, "driver"),
    }


def _disk() -> dict[str, int]:
    """Bytes free where jobs' files and logs lie, and where shards are fetched to, made yet or not."""
    places = map(str, (tempfile.gettempdir(), os.getcwd(), cache_folder()))
    return {place: shutil.disk_usage(nearest_folder(Path(place))).free for place in dict.fromkeys(places)}


def clock_there() -> float:
    """The time there, in seconds since 1970."""
    return time.time()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gpus_listed() -> int:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _path(storage: str, token: str, name: str) -> Any:
    return open_storage(storage).root / f".raystudy-doctor-{token}-{name}"


def _write(storage: str | None, token: str, name: str) -> str:
    """Write a file twice, the second time in vain; why that does not go, empty where it does."""
    if storage is None:
        return ""
    try:
        with patience(_PATIENCE_SECONDS):
            return broken_promise(_path(storage, token, name))
    except (RaystudyError, OSError, ImportError) as error:
        return str(error)


def _reads(storage: str, token: str, name: str) -> bool:
    try:
        with patience(_PATIENCE_SECONDS):
            return read_bytes(_path(storage, token, name)) is not None
    except (RaystudyError, OSError, ImportError):
        return False


def _remove(storage: str | None, token: str, name: str) -> None:
    if storage is None:
        return
    with suppress(RaystudyError, OSError, ImportError), patience(_REMOVAL_PATIENCE_SECONDS):
        path = _path(storage, token, name)
        remove_file(path)
        if not is_remote(path) and not any(Path(path.parent).iterdir()):
            Path(path.parent).rmdir()  # made by this look alone


def main() -> int:
    """Look, and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--storage")
    print(MARK + json.dumps(probe(parser.parse_args().storage)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
