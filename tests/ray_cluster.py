"""One Ray cluster for the test session, with its own temporary folder, ports and auth token."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.ending import end_with_this_process

_NODES = ("head", "second")
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def private_environment(folder: Path) -> dict[str, str]:
    """What keeps a cluster to itself: its own token and its own temporary folder."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 by default: on a machine where other things run a test would hardly come on
    }


@pytest.fixture
def own_ray() -> Iterator[dict[str, str]]:
    """The environment of a cluster that a driver starts for itself; short, since socket paths are limited.

    It says nothing of a token: the driver must see to that.
    """
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    common = private_environment(folder)
    yield {name: value for name, value in common.items() if "_AUTH_" not in name} | {"TMPDIR": str(folder)}
    shutil.rmtree(folder, ignore_errors=True)


def descendants(pid: int) -> dict[int, str]:
    """Process id -> command of a process and all that it and they have started and that have not been left by them."""
    parents, commands = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name in brackets may hold anything: what comes after is state and parent (proc(5)).
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            commands[int(process.name)] = words.replace("\0", " ").strip()
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return {each: commands[each] for each in found if each in commands}


def listening(pids: Iterable[int]) -> set[tuple[str, int, int]]:
    """(address, port, process id) of all TCP sockets on which the processes take connections (proc(5), /proc/net)."""
    addresses = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":  # LISTEN
                host, port = words[1].split(":")
                # 32-bit words of the address, each in the machine's own order of bytes
                parts = [int(host[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(host), 8)]
                addresses[f"socket:[{words[9]}]"] = (socket.inet_ntop(family, b"".join(parts)), int(port, 16))
    found = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                if (place := addresses.get(os.readlink(descriptor))) is not None:
                    found.add((*place, pid))
    return found


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[dict[str, str]]:
    """The session's running cluster: the environment that reaches it."""
    with running_cluster() as environment:
        yield environment


@contextmanager
def running_cluster() -> Iterator[dict[str, str]]:
    """A running cluster of two nodes, job server on loopback; the environment to reach it.

    Each has a logical CPU, the head four logical GPUs, which are not there.
    """
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    port, jobs = free_port(), free_port()
    environment = {**private_environment(folder), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{jobs}"
    head = ["--head", "--port", str(port), "--include-dashboard", "true", "--dashboard-host", "127.0.0.1"]
    head += ["--dashboard-port", str(jobs), "--disable-usage-stats", "--num-gpus", "4"]
    nodes = [_start("head", head, folder, environment)]
    try:
        _wait_for(lambda: _listens(port), nodes, folder)
        nodes.append(_start("second", ["--address", f"127.0.0.1:{port}"], folder, environment))
        _wait_for(lambda: all("Ray runtime started" in _log(folder, name) for name in _NODES), nodes, folder)
        yield environment
    finally:
        for node in reversed(nodes):
            _stop(node)
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    name: str, arguments: list[str], folder: Path, environment: dict[str, str], cpus: int = 1
) -> "subprocess.Popen[bytes]":
    """`ray start` of one node on loopback, which ends with this process, even where that is killed."""
    # Jobs are started by the node's agent, whose fixed default port another cluster on this machine may hold.
    arguments = [*arguments, "--node-ip-address", "127.0.0.1", "--dashboard-agent-listen-port", str(free_port())]
    # A temporary folder of its own: in one for both each node would unpack a job's files over the other's.
    (folder / name[0]).mkdir()  # one letter: the paths of sockets below it are limited
    arguments += [
        "--num-cpus",
        str(cpus),
        "--object-store-memory",
        "100000000",
        "--block",
        "--temp-dir",
        str(folder / name[0]),
    ]
    without_address = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    with (folder / f"{name}.log").open("w") as log:
        node = subprocess.Popen(
            [RAY, "start", *arguments],
            env={**os.environ, **without_address, "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end_with_this_process(node.pid, folder)
    return node


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _log(folder: Path, name: str) -> str:
    path = folder / f"{name}.log"
    return path.read_text() if path.exists() else ""


def _wait_for(is_so: Callable[[], bool], nodes: "list[subprocess.Popen[bytes]]", folder: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and all(node.poll() is None for node in nodes):
        if is_so():
            return
        time.sleep(0.2)
    raise AssertionError("\n".join(_log(folder, name) for name in _NODES))


def _stop(node: "subprocess.Popen[bytes]") -> None:
    """Stop this cluster alone: SIGTERM to its `ray start --block`, then whatever its session still holds."""
    node.send_signal(signal.SIGTERM)
    try:
        node.wait(5)  # else what Ray Train leaves (an actor that outlives its jobs) keeps it for 20 s
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()
    if shutil.which("pkill"):  # by the session of this `ray start` alone
        subprocess.run(["pkill", "-KILL", "-s", str(node.pid)], check=False)
