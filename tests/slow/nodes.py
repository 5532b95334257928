"""Nodes that come and go in a wave: a late one is used, one that goes costs no try, a full one is left, more come.

A cluster of its own: a head without CPUs, where the driver is, and nodes of two CPUs; where it grows, an autoscaler
with Ray's provider of fake nodes, of one CPU each, which are processes like the others. The work is a STUB, named so:
it notes its node and sleeps. Leaves docs/results/nodes-<date>.json and .md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raystudy.distribute.cluster_nodes import GROWS_TO
from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.errors import NodeFullError
from raystudy.execute.work import RunReport, Task, failed_report
from raystudy.specs.study import Resources
from tests.conftest import ROOT
from tests.ray_cluster import _listens, _log, _start, _stop, free_port, private_environment
from tests.slow.results import table, today, write_result
from tests.train.test_training import a_run

NUM_TASKS, TASK_SECONDS = 24, 4.0
_COMMANDS = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
MOST_NODES = 3  # that the autoscaler may start
FULL = "full-node"  # a file that names the node whose disk the stub finds full


def note_node(task: Task) -> list[RunReport]:
    """The stub."""
    import ray

    folder, node = Path(task.storage), ray.get_runtime_context().get_node_id()
    full = folder / FULL
    if full.exists() and full.read_text() in ("", node):
        if not full.read_text():
            full.write_text(node)
        return [failed_report(task.task_id, NodeFullError("the stub finds no room here"))]
    time.sleep(TASK_SECONDS)
    with (folder / "notes.jsonl").open("a") as notes:
        notes.write(json.dumps({"run": task.task_id, "node": node, "at": time.time()}) + "\n")
    return [RunReport(task.task_id, "finished")]


def drive(folder: Path) -> None:
    """A launch on the cluster of RAY_ADDRESS: what is lost is made again, as the loop of a launch does."""
    tasks = [
        Task((a_run("0" * 32, seed=seed).model_dump_json(),), str(folder), {}, cpus=1.0) for seed in range(NUM_TASKS)
    ]
    by_id = {task.task_id: task for task in tasks}
    with TuneExecutor(None, [Resources()], work=note_node) as executor:
        while tasks:
            lost = []
            for report in executor.run(tasks):
                told = {"run": report.run_id, "status": report.status, "loss": report.loss, "cause": report.cause}
                print(json.dumps({**told, "unwritable": report.is_unwritable}), flush=True)
                lost += [by_id[report.run_id]] if report.loss else []
            tasks = lost


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.nodes")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="a part of the names of the cases to make; no result is written")
    options = parser.parse_args(arguments)
    if options.drive is not None:
        drive(options.drive)
        return 0
    cases = {
        "a node joins in the middle": _joins,
        "a node is killed": _is_killed,
        "a node is ended by SIGTERM": _is_ended,
        "a node's disk is full": _is_full,
        "the cluster grows": _grows,
    }
    rows = [_case(name, happen) for name, happen in cases.items() if options.only in name]
    good = all(row["good"] for row in rows)
    if options.only:
        return 0 if good else 1
    lines = [f"# Nodes that come and go, {today()}", "", *table("case", list(rows[0])[1:], rows)]
    write_result("nodes", {"date": today(), "good": good, "cases": rows}, lines)
    return 0 if good else 1


class Cluster:
    """A head without CPUs, and nodes of two; or those that its autoscaler starts."""

    def __init__(self, *, grows: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rs-"))
        self.port = free_port()
        self.environment = {**private_environment(self.folder), "RAY_ADDRESS": f"127.0.0.1:{self.port}"}
        head = ["--head", "--port", str(self.port), "--include-dashboard", "false", "--disable-usage-stats"]
        if grows:
            config = self.folder / "autoscaling.json"
            config.write_text(json.dumps(_autoscaling(self.port)))
            head += ["--autoscaling-config", str(config)]
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            self.environment |= {GROWS_TO: f"{MOST_NODES}x1"}
        self.nodes = {"head": _start("head", head, self.folder, self.environment, cpus=0)}
        _until(lambda: _listens(self.port), 90)
        self.work = self.folder / "work"
        self.work.mkdir()

    def add(self, name: str) -> None:
        """A node more; it is there some seconds later."""
        address = ["--address", f"127.0.0.1:{self.port}"]
        self.nodes[name] = _start(name, address, self.folder, self.environment, cpus=2)

    def kill(self, name: str) -> None:
        """As a machine that is switched off: the raylet and all it started, at once."""
        os.killpg(self.nodes[name].pid, signal.SIGKILL)
        subprocess.run(["pkill", "-KILL", "-s", str(self.nodes[name].pid)], check=False)

    def notes(self) -> list[dict[str, Any]]:
        """What the stubs noted."""
        path = self.work / "notes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self) -> None:
        """Stop all that is left."""
        for node in reversed(self.nodes.values()):
            _stop(node)
        shutil.rmtree(self.folder, ignore_errors=True)


def _autoscaling(port: int) -> dict[str, Any]:
    """For Ray's provider of fake nodes: the format of its cluster launcher."""
    types = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    types["worker"] = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES}
    from ray.util import get_node_ip_address

    return {
        "cluster_name": "fake",
        "max_workers": MOST_NODES,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{get_node_ip_address()}:{port}",
            "use_node_id_as_ip": True,
            "worker_liveness_check": False,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{name}_commands": [] for name in _COMMANDS},
    }


def _until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _case(name: str, happen: Callable[[Cluster], str]) -> dict[str, Any]:
    """A launch on two nodes (one, to which another joins; none yet) in the middle of which something happens."""
    cluster = Cluster(grows=happen is _grows)
    try:
        names = "" if happen is _grows else "a" if happen is _joins else "ab"
        for node in names:
            cluster.add(node)
        if happen is not _joins:
            _until(lambda: all("Ray runtime started" in _log(cluster.folder, name) for name in ("head", *names)), 120)
        command = [sys.executable, "-m", "tests.slow.nodes", "--drive", str(cluster.work)]
        environment, started = {**os.environ, **cluster.environment}, time.monotonic()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)  # type: ignore[call-overload]
        least = 2 if len(cluster.nodes) > 2 else 1  # nodes at work
        _until(lambda: _are_at_work(cluster, least) or driver.poll() is not None, 180)
        what = happen(cluster)
        out, err = driver.communicate(timeout=240)
        reports = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        notes, statuses = cluster.notes(), Counter((report["status"], report["loss"]) for report in reports)
        finished = {report["run"] for report in reports if report["status"] == "finished"}
        row = {
            "case": name,
            "what": what,
            "finished": len(finished),
            "failed": statuses["failed", ""],
            "preempted": statuses["failed", "preempted"],
            "moved_on": statuses["failed", "node-full"],
            "nodes_used": len({note["node"] for note in notes}),
            "seconds": round(time.monotonic() - started, 1),
        }
        row["good"] = _is_good(row, happen, driver.returncode)
        print(row, *([] if row["good"] else [reports, err[-2000:]]), flush=True)
        return row
    finally:
        cluster.end()


def _are_at_work(cluster: Cluster, num_nodes: int) -> bool:
    notes = cluster.notes()
    return len(notes) >= 2 and len({note["node"] for note in notes}) >= num_nodes


def _is_good(row: dict[str, Any], happen: Callable[[Cluster], str], status: int) -> bool:
    is_whole = status == 0 and row["finished"] == NUM_TASKS and not row["failed"]
    return (
        is_whole
        and {
            _joins: row["nodes_used"] == 2 and not row["preempted"],
            _is_killed: 1 <= row["preempted"] <= 2 and row["nodes_used"] == 2,
            _is_ended: row["preempted"] <= 2 and row["nodes_used"] == 2,
            # Ray's autoscaler may start one too many of its fake nodes, and ends that at once.
            _grows: row["nodes_used"] >= MOST_NODES and row["preempted"] <= 1,
            _is_full: 1 <= row["moved_on"] <= 4 and not row["preempted"],
        }[happen]
    )


def _joins(cluster: Cluster) -> str:
    cluster.add("b")
    return f"one node of 2 CPUs; another starts after 2 of {NUM_TASKS} runs"


def _is_killed(cluster: Cluster) -> str:
    cluster.kill("b")
    return f"two nodes; both at work on {NUM_TASKS} runs; SIGKILL for all of one"


def _is_ended(cluster: Cluster) -> str:
    cluster.nodes["b"].send_signal(signal.SIGTERM)
    return f"two nodes; both at work on {NUM_TASKS} runs; SIGTERM to `ray start --block` of one"


def _grows(_cluster: Cluster) -> str:
    return f"no node but the head; an autoscaler that may start {MOST_NODES} nodes of 1 CPU"


def _is_full(cluster: Cluster) -> str:
    (cluster.work / FULL).touch()
    return "two nodes; the disk of one is full from then on (the stub says so)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
