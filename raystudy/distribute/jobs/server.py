"""The cluster's job server, reached over HTTP by Ray's own client; whatever keeps us from it is one clear message.

Ray's client lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS override the address that it is given, and waits for ever on a
server that says nothing; here `--address` wins and every request has a limit.
"""

import asyncio
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from raystudy.distribute.connection import import_ray
from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server_errors import (
    CONNECT_SECONDS,
    JobServerError,
    no_server,
    told_errors,
    unreachable,
)
from raystudy.errors import MissingPackageError, SpecError
from raystudy.execute.packages import supported_versions

# They say at INFO what we say ourselves: uploads, and that a log socket has closed.
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_ANSWER_SECONDS, _UPLOAD_SECONDS = 120.0, 1800.0
_QUIET_SECONDS = 60.0  # a log socket that says nothing for so long is opened anew: it may be cut without a word
_AGENT_SECONDS = 30.0  # a head that has just started has no agent yet


def given_address(option: str | None) -> str:
    """The job server's address as it is given, unchecked; empty where none is."""
    fallback = os.environ.get("RAY_ADDRESS", "")
    return option or os.environ.get("RAY_API_SERVER_ADDRESS") or (fallback if fallback.startswith("http") else "")


def job_address(option: str | None) -> str:
    """The URL of the job server: `--address`, RAY_API_SERVER_ADDRESS, or RAY_ADDRESS where that is a URL.

    Raises:
        SpecError: none of them is given, or it is of another kind.
    """
    given = given_address(option)
    if not given:
        raise SpecError(
            "the cluster's job server must be named, but there is no --address. Give --address http://HOST:8265 (the "
            "dashboard's port), or set RAY_API_SERVER_ADDRESS"
        )
    url = given if "://" in given else f"http://{given}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(
            f"--address must be the URL of the dashboard, such as http://HOST:8265, but got {given!r}. Jobs go over "
            f"HTTP, not by Ray Client (ray://) or the cluster's own address"
        )
    if parts.username or parts.password:
        raise SpecError("--address must hold no password, since addresses are printed. Use RAY_JOB_HEADERS or a token")
    try:
        _ = parts.port
    except ValueError as error:
        raise SpecError(f"the port in --address must be a number from 1 to 65535, but got {given!r}") from error
    return url.rstrip("/")


class JobServer:
    """Jobs on one cluster. Every method raises a JobServerError that says what to do."""

    def __init__(self, client: Any, url: str, notes: tuple[str, ...] = (), ray_version: str = "") -> None:
        self._client, self.url, self.notes, self.ray_version = client, url, notes, ray_version
        self.wants_token = False

    def submit(self, entrypoint: str, job_id: str, **options: Any) -> None:
        """Submit; the working folder in `runtime_env` is uploaded first.

        Raises:
            JobExistsError: another submission took the id first.
        """
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                with self._told(job_id):
                    self._client.submit_job(entrypoint=entrypoint, submission_id=job_id, **options)
                return
            except JobServerError as error:
                if "no available agent" not in str(error).lower() or time.monotonic() > deadline:
                    raise
                time.sleep(2)

    def jobs(self) -> list[Job]:
        """All submitted jobs that the cluster remembers."""
        with self._told():
            return [_job(details) for details in self._client.list_jobs() if details.submission_id]

    def job(self, job_id: str) -> Job:
        """One job; raises NoSuchJobError."""
        with self._told(job_id):
            return _job(self._client.get_job_info(job_id))

    def logs(self, job_id: str) -> str:
        """The whole log so far."""
        with self._told(job_id):
            return str(self._client.get_job_logs(job_id))

    def tail(self, job_id: str) -> Iterator[str]:
        """The log from its beginning as it comes, until the socket closes for whatever reason or says nothing."""
        loop = asyncio.new_event_loop()
        chunks = self._client.tail_job_logs(job_id)
        try:
            while True:
                try:
                    chunk = loop.run_until_complete(asyncio.wait_for(anext(chunks), _QUIET_SECONDS))
                except (StopAsyncIteration, TimeoutError):
                    return
                except (RuntimeError, OSError, _client_error()):
                    return  # asking for the job's status tells what is the matter
                yield str(chunk)
        finally:
            _end_loop(loop, chunks)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; False where it was not running."""
        with self._told(job_id):
            return bool(self._client.stop_job(job_id))

    def head_node(self) -> str:
        """The id of the head node, as Ray's labels name it."""
        with self._told():
            answer = self._client._do_request("GET", "/nodes?view=summary").json()
            nodes = [node.get("raylet", {}) for node in answer["data"]["summary"]]
            heads = [str(node["nodeId"]) for node in nodes if node.get("isHeadNode")]
        if not heads:
            raise JobServerError(f"the head must be known to keep the driver off it, but {self.url} does not tell it")
        return heads[0]

    @contextmanager
    def _told(self, job_id: str = "") -> Iterator[None]:
        with told_errors(self.url, job_id):
            yield


def _end_loop(loop: asyncio.AbstractEventLoop, chunks: Any) -> None:
    """Close the socket and what waits for it, also where Ctrl-C came in the middle."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with suppress(Exception):
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    with suppress(Exception):
        loop.run_until_complete(chunks.aclose())
    loop.close()


def _job(details: Any) -> Job:
    variables = dict((getattr(details, "runtime_env", None) or {}).get("env_vars") or {})
    try:
        stop_seconds = float(variables.get("RAY_JOB_STOP_WAIT_TIME_S", Job.stop_seconds))
    except ValueError:
        stop_seconds = Job.stop_seconds
    return Job(
        id=str(details.submission_id),
        status=str(getattr(details.status, "value", details.status)),
        entrypoint=str(details.entrypoint or ""),
        message=str(details.message or ""),
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
        metadata=dict(details.metadata or {}),
        stop_signal=str(variables.get("RAY_JOB_STOP_SIGNAL", Job.stop_signal)),
        stop_seconds=stop_seconds,
    )


def open_job_server(address: str | None) -> JobServer:
    """The job server at `address` (see `job_address`).

    Raises:
        JobServerError: nothing answers there, it is no job server, or it wants another token.
        MissingPackageError: Ray is not installed here with what its job client needs.
    """
    url = job_address(address)
    import_ray()
    _need_job_client()
    version = _look(url)
    with told_errors(url), _address_wins():
        client = _make_client(url)
    known = version or str(getattr(client, "_server_ray_version", "") or "")
    server = JobServer(client, url, _version_notes(known), known)
    server.wants_token = not version
    return server


def _make_client(url: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's client, with a limit on every request."""

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            # The first limit holds for all of an upload too, which a slow line makes long.
            is_upload = options.get("data") is not None
            options.setdefault("timeout", (_UPLOAD_SECONDS if is_upload else CONNECT_SECONDS, _ANSWER_SECONDS))
            return super()._do_request(*arguments, **options)

    try:
        headers = json.loads(os.environ.get("RAY_JOB_HEADERS") or "{}")
    except ValueError as error:
        raise SpecError(f"RAY_JOB_HEADERS must be a map in JSON, but {error}. Mend or unset it") from error
    return Client(url, headers=headers)


def _need_job_client() -> None:
    try:
        import aiohttp  # noqa: F401
        import requests  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"Ray's job client needs ray[default] ({error}). Install raystudy[cluster]"
        ) from error


def _client_error() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


@contextmanager
def _address_wins() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _version_notes(version: str) -> tuple[str, ...]:
    import ray
    from packaging.specifiers import SpecifierSet

    supported = supported_versions().get("ray", "")
    if version and supported and not SpecifierSet(supported).contains(version, prereleases=True):
        return (f"the cluster runs Ray {version}, but raystudy is tested with ray{supported}",)
    if version and version.split(".")[:2] != str(ray.__version__).split(".")[:2]:
        return (f"the cluster runs Ray {version}, this machine has {ray.__version__}; jobs over HTTP bear that",)
    return ()


def _look(url: str) -> str:
    """Ray's version there, empty where a token is wanted first; raises JobServerError where it is no job server."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=CONNECT_SECONDS) as answer:
            return str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return ""
        raise no_server(url, f"answers with HTTP {error.code}") from error
    except (http.client.HTTPException, ConnectionResetError) as error:
        raise no_server(url, "does not speak HTTP") from error
    except (ValueError, KeyError, TypeError) as error:
        raise no_server(url, "answers, but not as Ray does") from error
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise unreachable(url, error) from error
