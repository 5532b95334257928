"""A real S3 server on loopback (moto's, a process of its own), and a proxy before it that makes what networks make.

The proxy also does what S3 guarantees and moto, which looks before it writes, does not: conditional writes come one
after another. Nothing here knows raystudy.
"""

import http.client
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import pytest

from tests.ray_cluster import free_port

BUCKET = "studies"
# Dummy credentials; the secret is one that a test can look for in everything that was written.
SECRET = "planted-Secret/Xq7Zp2Rv9Lm4Tn8Wb3Kd6Hs1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "server", "date"}


@dataclass
class Faults:
    """What goes wrong for the calls to come."""

    failing: float = 0.0  # share of calls that get a 500, a 503 SlowDown or a closed connection
    lost_answers: float = 0.0  # share of calls that are done and whose answer is lost
    latency_seconds: float = 0.0
    refuses_writes: int = 0  # the HTTP status of every write: 403, 405, 507
    refuses_reads: int = 0  # the HTTP status of everything else
    ignores_conditions: bool = False
    page_keys: int = 0  # most keys of one page of a listing; 0: the server's own 1,000
    gone_until: float = 0.0  # on the monotonic clock
    calls: Counter[str] = field(default_factory=Counter)
    written: list[str] = field(default_factory=list)  # paths of objects, in the order in which they were there
    generator: random.Random = field(default_factory=lambda: random.Random(7))

    def gone_for(self, seconds: float) -> None:
        """No answer at all for so long."""
        self.gone_until = time.monotonic() + seconds

    def heal(self) -> None:
        """Nothing goes wrong from here on; calls are counted from nought."""
        self.failing = self.lost_answers = self.latency_seconds = self.gone_until = 0.0
        self.refuses_writes, self.refuses_reads, self.ignores_conditions, self.page_keys = 0, 0, False, 0
        self.calls.clear()


class Proxy(ThreadingHTTPServer):
    """Passes S3 calls on to `target` (host, port), with faults."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: tuple[str, int], handler: "type[Handler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.target, self.faults, self.conditional = target, Faults(), threading.Lock()
        self.server_pid = 0  # of the process behind it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    server: Proxy

    def do_GET(self) -> None:
        faults = self.server.faults
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        writes = self.command in ("PUT", "POST", "DELETE") and "select" not in self.path
        faults.calls["LIST" if self._is_listing() else self.command] += 1
        time.sleep(faults.latency_seconds)
        chance = faults.generator.random()
        if time.monotonic() < faults.gone_until or chance < faults.failing / 3:
            self._hang_up()
        elif chance < faults.failing:
            is_slow_down = chance < faults.failing * 2 / 3
            self._fail(503 if is_slow_down else 500, "SlowDown" if is_slow_down else "InternalError")
        elif writes and faults.refuses_writes:
            code = {403: "AccessDenied", 405: "MethodNotAllowed", 507: "InsufficientStorage"}[faults.refuses_writes]
            self._fail(faults.refuses_writes, code)
        elif not writes and faults.refuses_reads:
            self._fail(faults.refuses_reads, "InvalidRequest")
        else:
            self._pass_on(body, is_lost=faults.generator.random() < faults.lost_answers)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 (http.server looks for these names)

    def _is_listing(self) -> bool:
        return self.command == "GET" and "list-type=2" in self.path

    def _pass_on(self, body: bytes, *, is_lost: bool) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        if self.server.faults.ignores_conditions:
            headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
        if self.server.faults.page_keys and "list-type=2" in self.path:
            self.path = f"{re.sub('&max-keys=[0-9]+', '', self.path)}&max-keys={self.server.faults.page_keys}"
        is_conditional = any(name.lower().startswith("if-") for name in headers)
        with self.server.conditional if is_conditional else suppress(OSError):
            answer, content = self._ask(self.command, self.path, body, headers)
        if self.command == "PUT" and answer.status == 200:
            self.server.faults.written.append(unquote(self.path.partition("?")[0]))
        if is_lost:
            self._hang_up()
        else:
            self._answer(answer, content)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """What the server says."""
        onward = http.client.HTTPConnection(*self.server.target, timeout=60)
        onward.request(method, path, body, {"Host": "{}:{}".format(*self.server.target), **(headers or {})})
        answer = onward.getresponse()
        content = answer.read()
        onward.close()
        return answer, content

    def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, code: str) -> tuple[str, str]:
        """Kind and text of the answer to a call that fails."""
        return "application/xml", f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"

    def _fail(self, status: int, code: str) -> None:
        kind, text = self._error(code)
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


AnyProxy = TypeVar("AnyProxy", bound=Proxy)


@contextmanager
def s3_server(folder: Path) -> Iterator[Proxy]:
    """Moto's server with an empty bucket BUCKET behind a proxy; its output goes to `folder`."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    with answering(Proxy(("127.0.0.1", port)), server, lambda: _make_bucket(port, server)) as proxy:
        yield proxy


@contextmanager
def answering(
    proxy: AnyProxy, server: "subprocess.Popen[bytes]", make_bucket: Callable[[], None]
) -> Iterator[AnyProxy]:
    """The proxy at work once `make_bucket` has found the server behind it at work; both end with the block."""
    try:
        make_bucket()
        proxy.server_pid = server.pid
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        proxy.shutdown()
    finally:
        proxy.server_close()
        server.terminate()
        server.wait(10)


def reached(process: AnyProxy, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> Iterator[AnyProxy]:
    """The server without faults, and this process's environment so that it is reached: the body of a fixture."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    process.faults.heal()
    yield process
    process.faults.heal()


def _make_bucket(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Wait for the server by making the bucket."""
    signed = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={ENVIRONMENT['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/x"
    }
    for _ in range(300):
        assert server.poll() is None, "moto's server has ended"
        with suppress(OSError, http.client.HTTPException):
            onward = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            onward.request("PUT", f"/{BUCKET}", headers=signed)
            if onward.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise AssertionError("moto's server does not answer")


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One S3 server for all tests that need one."""
    with s3_server(tmp_path_factory.mktemp("s3")) as proxy:
        yield proxy


@pytest.fixture
def s3(s3_process: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server without faults, and this process's environment so that it is reached."""
    yield from reached(s3_process, monkeypatch, {**ENVIRONMENT, "AWS_ENDPOINT_URL": s3_process.url})


@pytest.fixture
def s3_uri(request: pytest.FixtureRequest) -> str:
    """A prefix of its own on the server."""
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
