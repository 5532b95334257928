"""A Ray cluster in the namespace: a head, nodes that come and go, and jobs over HTTP. Knows nothing of studies."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.processes import all_pids, in_session, kill, wait_until_gone
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")
PORT, HTTP = 6455, 8355
API = f"http://127.0.0.1:{HTTP}"
_TOLD = re.compile(r"^submitted (\S+)|^(\S+) (?:is \w+ already|has finished:)", re.MULTILINE)  # raystudy submit
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# A node that gives no sign of life for so long is dead: Ray's own defaults take half a minute.
_SOONER = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_worker_niceness": "0",
}


class Cluster:
    """Of a head and nodes with a CPU for tasks each; ends all processes of the namespace in the end."""

    def __init__(
        self,
        *,
        nodes: int = 1,
        head_cpus: int = 1,
        environment: dict[str, str] | None = None,
        spares: Sequence[int] = (),
    ) -> None:
        """`environment`: more of it, for all that reaches the cluster; `spares`: processes that are no part of it."""
        self.spares = frozenset(spares)
        self._sizes, self._more = (nodes, head_cpus), environment or {}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.folder = Path()
        self._count = 0

    def start(self) -> None:
        """A new cluster, its folder, token and home new too."""
        self.end()
        self.folder = Path(tempfile.mkdtemp(prefix="rc-"))
        (self.folder / "token").write_text(secrets.token_hex(32))
        (self.folder / "home").mkdir()
        _, head_cpus = self._sizes
        head = ["--head", "--port", str(PORT), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(HTTP)]
        self._ray_start("head", [*head, "--temp-dir", str(self.folder / "head"), "--num-cpus", str(head_cpus)])
        self.wait_for_http()
        self.complete()

    def complete(self) -> None:
        """As many nodes as it began with, whatever became of them."""
        while len(self.nodes) <= self._sizes[0]:  # one after another: two at once may choose the same ports
            self.add_node()
            self.wait_for_nodes()

    @property
    def environment(self) -> dict[str, str]:
        """What reaches the cluster; also that of its nodes."""
        own = {
            **self._more,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": API,
        }
        return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **own}

    def add_node(self, hidden: dict[Path, Path] | None = None, disk: Path | None = None) -> str:
        """One more node; its name. `hidden`: folders in whose place the node, alone, sees others; `disk`: its own."""
        self._count += 1
        name = f"node{self._count}"
        arguments = ["--address", f"127.0.0.1:{PORT}", "--num-cpus", "1", "--resources", json.dumps({name: 1})]
        # A temporary folder of its own, as on a machine of its own: in a shared one a node that gets a job's working
        # directory puts its copy in place of the one that the driver on the other node stands in.
        self._ray_start(name, [*arguments, "--temp-dir", str((disk or self.folder) / name)], hidden or {})
        return name

    def _ray_start(self, name: str, arguments: Sequence[str], hidden: dict[Path, Path] | None = None) -> None:
        words = [RAY, "start", *arguments, "--object-store-memory", "80000000", "--disable-usage-stats", "--block"]
        if hidden:
            mounts = "".join(f"mount --bind {other} {folder} && " for folder, other in hidden.items())
            words = ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *words]
        with (self.folder / f"{name}.log").open("w") as log:
            self.nodes[name] = subprocess.Popen(
                words,
                env={**self.environment, **_SOONER},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for_http(self, seconds: float = 120) -> None:
        """Until the job server answers."""
        deadline = time.monotonic() + seconds
        while self.get("/api/jobs/") is None:
            assert time.monotonic() < deadline, "the head does not answer"
            assert self.nodes["head"].poll() is None, (self.folder / "head.log").read_text()
            time.sleep(0.1)

    def wait_for_nodes(self, seconds: float = 120) -> None:
        """Until all nodes that were started and not killed are in the cluster."""
        deadline = time.monotonic() + seconds
        while self.num_alive() < len(self.nodes):
            if time.monotonic() > deadline:
                logs = [(self.folder / f"{name}.log").read_text() for name in self.nodes]
                raise AssertionError(f"{self.num_alive()} of {len(self.nodes)} nodes are there: {logs}")
            time.sleep(0.2)

    def num_alive(self) -> int:
        """Nodes that the head takes for alive."""
        answer = self.get("/api/v0/nodes?limit=100") or {}
        rows = answer.get("data", {}).get("result", {}).get("result", [])
        return sum(row.get("state") == "ALIVE" for row in rows)

    def get(self, path: str) -> Any:
        """An answer of the job server; None where there is none."""
        token = (self.folder / "token").read_text()
        request = urllib.request.Request(API + path, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError, urllib.error.HTTPError):
            return None

    def pids(self, name: str) -> list[int]:
        """The processes of a node; the head's are those of the whole of its machine, jobs left out."""
        return in_session(self.nodes[name].pid)

    def forget(self, name: str) -> None:
        """A node that was killed: whatever is left of it ends too."""
        kill(self.pids(name))
        self.nodes.pop(name).wait()

    def stop_node(self, name: str) -> None:
        """End a node as its operator would."""
        self.nodes[name].send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill all that is left in the namespace, and remove the cluster's folder."""
        pids = [pid for pid in all_pids() if pid not in self.spares]
        kill(pids, signal.SIGKILL)
        wait_until_gone(pids, 10)
        for process in self.nodes.values():
            process.wait()
        self.nodes, self._count = {}, 0
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster started, and ended with the block."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


class Job:
    """A job that is submitted by a command which then follows it: Ray's own, or raystudy's."""

    def __init__(
        self, cluster: Cluster, words: Sequence[str], *, name: str = "", via: str = API, cwd: Path = ROOT
    ) -> None:
        """`name`: the job's id where the command does not choose it; `via`: the address that the command is given."""
        self._cluster, self._name = cluster, name
        self._out = cluster.folder / f"{time.monotonic_ns()}.out"
        environment = {**cluster.environment, "RAY_API_SERVER_ADDRESS": via}
        self.submitted = time.monotonic()
        with self._out.open("w") as out:
            self.follower = subprocess.Popen(words, cwd=cwd, env=environment, stdout=out, stderr=out)

    @property
    def name(self) -> str:
        """The job's id; empty until the command has told it."""
        if not self._name:
            found = _TOLD.search(self._out.read_text(errors="replace"))
            self._name = (found[1] or found[2]) if found else ""
        return self._name

    def status(self) -> str:
        """Of the job, as its server says; empty where there is none."""
        return str((self._cluster.get(f"/api/jobs/{self.name}") or {}).get("status", "")) if self.name else ""

    def log(self) -> list[str]:
        """What the job has printed, as far as its server can say; else what its follower saw."""
        answer = self._cluster.get(f"/api/jobs/{self.name}/logs") if self.name else None
        return list(answer["logs"].splitlines()) if answer and answer.get("logs") else self.followed()

    def followed(self) -> list[str]:
        """What the follower has printed."""
        return self._out.read_text(errors="replace").splitlines()

    def wait(self, seconds: float = 90) -> tuple[int, str]:
        """Until the follower and the job have ended: exit status and the job's status."""
        code = self.follower.wait(seconds)
        deadline = time.monotonic() + seconds
        while (status := self.status()) and status not in ENDED:
            assert time.monotonic() < deadline, f"the job is still {status}"
            time.sleep(0.2)
        return code, status

    def ask_to_stop(self, words: Sequence[str]) -> "subprocess.Popen[bytes]":
        """A command that stops the job, on its way."""
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(
            [*words, self.name], env=self._cluster.environment, cwd=ROOT, stdout=nowhere, stderr=nowhere
        )
