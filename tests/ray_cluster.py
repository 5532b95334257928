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
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """The environment of a cluster that a driver starts for itself; short, since socket paths are limited."""
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    yield private_environment(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[dict[str, str]]:
    """A running cluster of two logical CPUs and four GPUs that are not there; gives the environment that reaches it.

    Its job server is on loopback.
    """
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    port, jobs = free_port(), free_port()
    environment = {**private_environment(folder), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{jobs}"
    arguments = ["--head", "--port", str(port), "--node-ip-address", "127.0.0.1", "--include-dashboard", "true"]
    arguments += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(jobs), "--disable-usage-stats"]
    # Jobs are started by the node's agent, whose fixed default port another cluster on this machine may hold.
    arguments += ["--dashboard-agent-listen-port", str(free_port())]
    arguments += [
        "--num-cpus",
        "2",
        "--num-gpus",
        "4",
        "--object-store-memory",
        "100000000",
        "--temp-dir",
        str(folder),
        "--block",
    ]
    without_address = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    log = (folder / "start.log").open("w")
    head = subprocess.Popen(
        [RAY, "start", *arguments],
        env={**os.environ, **without_address, "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _wait_for(port, head, folder)
        yield environment
    finally:
        _stop(head)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, head: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert head.poll() is None, (folder / "start.log").read_text()
        with socket.socket() as probe:
            if (
                probe.connect_ex(("127.0.0.1", port)) == 0
                and "Ray runtime started" in (folder / "start.log").read_text()
            ):
                return
        time.sleep(0.2)
    raise AssertionError((folder / "start.log").read_text())


def _stop(head: "subprocess.Popen[bytes]") -> None:
    """Stop this cluster alone: SIGTERM to its `ray start --block`, then whatever its session still holds."""
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(5)  # else what Ray Train leaves (an actor that outlives its jobs) keeps it for 20 s
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()
    if shutil.which("pkill"):
        subprocess.run(["pkill", "-KILL", "-s", str(head.pid)], check=False)
