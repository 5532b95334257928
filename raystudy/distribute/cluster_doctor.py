"""`raystudy doctor --address`: a cluster as a laptop sees it, and what each node says of itself in a small job."""

import email.utils
import json
import os
import shlex
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raystudy import __version__
from raystudy.artifacts.endpoint import endpoint_of
from raystudy.artifacts.node_room import CACHE
from raystudy.artifacts.storage import SHARED
from raystudy.distribute.cluster_probe import MARK
from raystudy.distribute.jobs.parcel import Parcel
from raystudy.distribute.jobs.server import JobServer
from raystudy.distribute.jobs.server_errors import JobServerError
from raystudy.distribute.jobs.staging import stage
from raystudy.distribute.jobs.submission import ENVIRONMENT
from raystudy.execute.doctor import Finding, Needs
from raystudy.specs.memory import GIB
from raystudy.specs.memory_fit import gib

_JOB_SECONDS = 180.0
_MOST_SKEW_SECONDS = 5.0  # a lock and a record say when they began; seconds apart are told, the ledger bears them
_LEAST_FREE_DISK = 2 * GIB


def examine_cluster(
    server: JobServer, storage: str | None, needs: Needs, forwarded: Sequence[str] = (), python: str = "python"
) -> list[Finding]:
    """Look at the cluster from here and from every node; leaves nothing there.

    Raises:
        JobServerError: the job that looks could not be run.
    """
    found = _run_probe(server, storage, forwarded, python)
    nodes = found["nodes"]
    findings = [*_seen_from_here(server), *_versions(nodes, needs), _gpus(nodes, needs)]
    for node in nodes:
        findings += _of_node(node, storage)
    return findings


def _run_probe(server: JobServer, storage: str | None, forwarded: Sequence[str], python: str) -> dict[str, Any]:
    parcel = Parcel(Path.cwd())
    parcel.add_raystudy()
    folder = stage(parcel.files, "doctor")
    job_id = f"raystudydoctor-{uuid.uuid4().hex[:12]}"
    words = [python, "-m", "raystudy.distribute.cluster_probe"] + ([f"--storage={storage}"] if storage else [])
    variables = {**ENVIRONMENT, **endpoint_of(storage or ""), **{name: os.environ[name] for name in forwarded}}
    server.submit(shlex.join(words), job_id, runtime_env={"working_dir": str(folder), "env_vars": variables})
    deadline = time.monotonic() + _JOB_SECONDS
    while not (job := server.job(job_id)).is_over:
        if time.monotonic() > deadline:
            server.stop(job_id)
            raise JobServerError(
                f"a small job must end within {_JOB_SECONDS:.0f} s, but {job_id} is {job.status} still"
            )
        time.sleep(0.5)
    log = server.logs(job_id)
    line = next((line for line in log.splitlines() if line.startswith(MARK)), None)
    if line is None:
        last = [line for line in log.strip().splitlines() if line.strip()][-1:] or [job.message]
        raise JobServerError(
            f"a small job must run with {python!r} on the head, but it ended as {job.status}: {last[0].strip()}. Start "
            f"Ray from the environment that has raystudy's packages, or name its Python with --python"
        )
    return dict(json.loads(line.removeprefix(MARK)))


def _seen_from_here(server: JobServer) -> Iterator[Finding]:
    yield Finding("job server", "ok", f"{server.url} answers, Ray {server.ray_version or 'of unknown version'}")
    for note in server.notes:
        yield Finding("job server", "warning", note, "Install a supported version on both sides")
    if server.wants_token:
        yield Finding("token", "ok", "wanted, and ours is accepted")
    else:
        way_out = "Start every node with RAY_AUTH_MODE=token, and keep the port behind ssh or a private network"
        found = "none is wanted: whoever reaches the dashboard's port can run anything on the cluster"
        yield Finding("token", "warning", found, way_out)
    ahead = _server_ahead(server.url)
    if ahead is None:
        yield Finding("clock", "warning", "the head's clock cannot be told from here", "Look at its `date`")
    elif abs(ahead) > _MOST_SKEW_SECONDS:
        found = f"the head's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield Finding("clock", "warning", found, "Let NTP set both")
    else:
        yield Finding("clock", "ok", "the head's and this machine's agree to a few seconds")


def _server_ahead(url: str) -> float | None:
    """Seconds by which the head's clock is ahead of ours, by its HTTP Date (whole seconds)."""
    before = time.time()
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=10) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    except OSError:
        return None
    middle = (before + time.time()) / 2
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - middle if date else None
    except (TypeError, ValueError):
        return None


def _name(node: Mapping[str, Any]) -> str:
    return f"{node.get('host', node['address'])} ({node['id'][:8]})"


def _versions(nodes: Sequence[Mapping[str, Any]], needs: Needs) -> Iterator[Finding]:
    """The nodes must agree with one another; this machine may differ, since jobs go over HTTP."""
    here = {"python": ".".join(map(str, sys.version_info[:3])), "raystudy": __version__}
    answering = [node for node in nodes if "packages" in node]
    for name in ("python", "ray", "torch", *(["deepspeed"] if needs.deepspeed else [])):
        there = {node["python"] if name == "python" else node["packages"][name] for node in answering}
        ours = here.get(name) or _installed(name)
        shown = ", ".join(each or "none" for each in sorted(there)) or "unknown"
        found = f"{shown} on the nodes, {ours or 'none'} here"
        if len(there) > 1:
            yield Finding(name, "problem", f"{found}: the nodes must agree", "Use one image or environment on all")
        elif there == {""}:
            extra = "deepspeed" if name == "deepspeed" else "cluster"
            found = f"not installed on the nodes, {ours or 'none'} here"
            yield Finding(name, "problem", found, f"Install raystudy[{extra}]")
        elif name == "torch" and ours and there != {ours}:
            way_out = "Results of different versions agree only to rounding; a study's runs are best made with one"
            yield Finding(name, "warning", found, way_out)
        else:
            yield Finding(name, "ok", found)
    there = {node["packages"]["raystudy"] or "none" for node in answering}
    found = f"{', '.join(sorted(there))} installed on the nodes, {__version__} here, which every job brings along"
    yield Finding("raystudy", "ok", found)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gpus(nodes: Sequence[Mapping[str, Any]], needs: Needs) -> Finding:
    told = {_name(node): float(node["resources"].get("GPU", 0)) for node in nodes}
    found = ", ".join(f"{count:g} on {name}" for name, count in told.items())
    asked, most = max(needs.gpus, needs.command_gpus), max(told.values(), default=0.0)
    hidden = [_name(node) for node in nodes if node.get("gpus_listed", 0) > node["resources"].get("GPU", 0)]
    if hidden:
        way_out = "Start those nodes with --num-gpus, or with CUDA_VISIBLE_DEVICES unset"
        return Finding("GPUs", "warning", f"{found}; more than Ray knows on {', '.join(hidden)}", way_out)
    if asked > sum(told.values()):
        way_out = "Add nodes with GPUs (an autoscaler may), or set gpus_per_run and gpus_per_worker to 0"
        return Finding("GPUs", "problem", f"{found}, but {asked} are needed at once (at most {most:g} a node)", way_out)
    return Finding("GPUs", "ok", found)


def _of_node(node: Mapping[str, Any], storage: str | None) -> Iterator[Finding]:
    name = f"node {_name(node)}"
    if "trouble" in node:
        yield Finding(name, "problem", f"does not answer: {node['trouble']}", "Look at its logs, or remove it")
        return
    if storage is not None:
        yield _storage_finding(name, node, storage)
    for place, free in node["disk"].items():
        few = free < _LEAST_FREE_DISK
        is_cache = place == node["cache"]
        shown = f"{place}, where shards are fetched to" if is_cache else place
        way_out = f"Free some, or set {CACHE} there" if is_cache else "Free some: jobs' files and logs lie there"
        yield Finding(
            f"{name} disk", "warning" if few else "ok", f"{gib(free)} free in {shown}", way_out if few else ""
        )
    ahead, within = node["ahead_seconds"], node["ahead_within"]
    if abs(ahead) - within > _MOST_SKEW_SECONDS:
        yield Finding(f"{name} clock", "warning", f"{ahead:+.1f} s from the head's", "Let NTP set both")
    else:
        yield Finding(f"{name} clock", "ok", f"{ahead:+.2f} s from the driver's, to within {within:.2f} s")


def _storage_finding(name: str, node: Mapping[str, Any], storage: str) -> Finding:
    title = f"{name} storage"
    if node["storage_trouble"]:
        way_out = "Mount it there, mend its rights, or give the node a role that may read and write it (or --env NAME)"
        return Finding(title, "problem", f"{storage}: {node['storage_trouble']}", way_out)
    if not (node["sees_driver"] and node["is_seen"]):
        found = f"{storage} is another folder there than where the driver runs"
        return Finding(title, "problem", found, f"Name {SHARED}")
    return Finding(title, "ok", f"{storage} is read and written there, and the first of two writers wins")
