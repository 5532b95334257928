"""What keeps a command from a job server: an address of another kind, another server, a refusal, no token."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from raystudy.distribute.jobs.server import job_address, open_job_server
from raystudy.distribute.jobs.server_errors import JobServerError, LostError
from raystudy.errors import SpecError


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://h:10001", "not by Ray Client"),
        ("http://me:secret@h:1", "must hold no password"),
        ("http://h:no", "a number from 1 to 65535"),
        ("http://", "must be the URL of the dashboard"),
        (None, "--address http://HOST:8265"),
    ],
)
def test_an_address_of_another_kind_is_refused(address, said, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(SpecError, match=said):
        job_address(address)
    assert job_address("h:8265/") == "http://h:8265"


class Answers(http.server.BaseHTTPRequestHandler):
    """A web server that is no job server of Ray, unless `answer` says so."""

    answer: tuple[int, str] = (200, "<html>")

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_no_job_server_is_told_from_one_that_is_not_there(web_server, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # Ray's own client would go there
    for answer in ((200, "<html>"), (200, '{"version": 1}'), (404, "")):
        monkeypatch.setattr(Answers, "answer", answer)
        with pytest.raises(JobServerError, match=r"a job server of Ray must answer .* dashboard's port"):
            open_job_server(web_server)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(LostError, match="nothing listens at that port"):
        open_job_server(f"http://127.0.0.1:{port}")
    for old, said in (("2.1.0", "the cluster runs Ray 2.1.0"), ("1.2.0", "Ray version 1.2.0")):
        monkeypatch.setattr(Answers, "answer", (200, json.dumps({"ray_version": old, "version": "4"})))
        if old == "1.2.0":
            with pytest.raises(JobServerError, match=said):
                open_job_server(web_server)
        else:
            assert said in open_job_server(web_server).notes[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "no"), "RAY_AUTH_MODE=token"),
        ((403, "Forbidden"), "refuses this one"),
        (
            (500, "Traceback\n  x\nValueError: Job with submission_id i already exists. Use another"),
            "has a job i already",
        ),
        ((500, "No available agent to submit job, please try again later."), "--dashboard-agent-listen-port"),
        ((413, "Maximum request body size 104857600 exceeded"), "absolute path"),
        ((500, "Traceback\n  x\nOSError: what was wrong"), "refuses: OSError: what was wrong"),
    ],
)
def test_what_a_job_server_refuses_is_one_line_with_what_to_do(web_server, monkeypatch, answer, said):
    monkeypatch.setattr(Answers, "answer", (200, '{"ray_version": "2.60.0", "version": "4"}'))
    monkeypatch.setattr("raystudy.distribute.jobs.server._AGENT_SECONDS", 0)
    server = open_job_server(web_server)
    monkeypatch.setattr(Answers, "answer", answer)
    with pytest.raises(JobServerError, match=said) as raised:
        server.submit("true", "i")
    assert "Traceback" not in str(raised.value)


def test_a_token_that_is_not_found_here_is_told(web_server, tmp_path):
    """In a process of its own, since Ray's client looks for a token once."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    command = [sys.executable, "-m", "raystudy", "jobs", "--address", web_server]
    Answers.answer = (200, '{"ray_version": "2.60.0", "version": "4"}')
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "a token must be found here" in done.stderr) == (1, True), done.stderr
