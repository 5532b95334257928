"""What is peculiar to Google Cloud Storage: its refusals, its tokens, uploads in parts, listings in pages.

Against fake-gcs-server behind a proxy; see tests/google_store.py. What all kinds do is in test_storage_kinds.py.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import pytest
from gcsfs.retry import HttpError
from google.auth.exceptions import RefreshError

from raystudy.artifacts import remote_files
from raystudy.artifacts.files import download, names_in, read_json, read_range, upload, write_json
from raystudy.artifacts.remote_errors import is_passing
from raystudy.artifacts.remote_retries import patience
from raystudy.artifacts.storage import open_storage
from raystudy.errors import UnreadableError
from tests.object_store import BUCKET


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "credentials must allow to list and read gs://.*HTTP 401 Unauthorized"),
        (403, "credentials must allow to list and read gs://.*Forbidden: .*is invalid"),
        (400, "a.json cannot be read: HTTP 400 Bad Request: .*is invalid"),
    ],
)
def test_what_google_refuses_is_told_after_one_call(gs, gs_uri, status, told):
    root, gs.faults.refuses_reads = open_storage(gs_uri).root, status
    with patience(5), pytest.raises(UnreadableError, match=told):
        read_json(root / "a.json")
    assert gs.faults.calls.total() == 1


def test_what_may_pass_at_google_is_asked_again(gs, gs_uri):
    """Also an error of the server that says "invalid", which gcsfs takes for a bad request, and a token's refresh."""
    root, gs.faults.refuses_reads = open_storage(gs_uri).root, 503
    threading.Timer(0.5, gs.faults.heal).start()
    assert read_json(root / "a.json") is None
    for is_retryable in (True, False):
        error = HttpError({"code": 401, "message": "Invalid Credentials"})
        error.__cause__ = RefreshError("no answer of the metadata server", retryable=is_retryable)
        assert is_passing(error) is is_retryable


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # gcsfs does so
def test_a_large_file_is_sent_to_google_in_parts_and_the_first_wins(gs, gs_uri, tmp_path):
    """gcsfs sends what is above 5 MB in parts; the condition of these is the proxy's (tests/google_store.py)."""
    root, content = open_storage(gs_uri).root, {name: name.encode() * 3_000_000 for name in ("one", "two")}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(lambda name: upload(tmp_path / name, root / "large", exclusive=True), content))
    assert sorted(won) == [False, True]
    assert gs.uploads, "it went in parts"
    assert download(root / "large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content[["one", "two"][won.index(True)]]
    assert not upload(tmp_path / "one", root / "large", exclusive=True) or won[0]
    assert upload(tmp_path / "two", root / "large")
    assert read_range(root / "large", 3, 8) == b"twotw"


def test_listings_of_google_come_in_pages_and_are_never_old(gs, gs_uri, monkeypatch):
    monkeypatch.setattr(gs, "most_in_a_page", 3)
    root = open_storage(gs_uri).root
    for number in range(8):
        write_json(root / "runs" / f"{number}.json", number)
        assert len(names_in(root / "runs")) == number + 1
    gs.faults.heal()
    assert sorted(names_in(root / "runs")) == [f"{number}.json" for number in range(8)]
    assert sorted(remote_files.below(root)) == [f"runs/{number}.json" for number in range(8)]
    assert gs.faults.calls["LIST"] == 6
    name = root.path.partition("/")[2] + "/runs/8.json"
    urlopen(Request(f"{gs.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}", b"8")).close()
    assert len(names_in(root / "runs")) == 9, "what another process wrote"
    assert read_json(root / "runs" / "8.json") == 8
