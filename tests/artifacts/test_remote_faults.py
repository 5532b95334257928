"""What a network makes: calls that fail, answers that are lost, outages, refusals, wrong places. No credential shows.

Against servers of S3 and Google Cloud Storage behind proxies; see tests/object_store.py and tests/google_store.py.
"""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raystudy.artifacts import remote_files, remote_retries
from raystudy.artifacts.files import (
    exists,
    is_remote,
    names_in,
    read_json,
    read_many,
    remove_folder,
    write_json,
)
from raystudy.artifacts.remote_retries import patience, patience_seconds
from raystudy.artifacts.storage import open_storage
from raystudy.errors import MissingPackageError, StorageError, UnreadableError, UnwritableError
from raystudy.execute.driver_lock import Timing, hold_study
from tests.object_store import BUCKET, SECRET


def test_calls_that_fail_and_answers_that_are_lost_change_nothing(store, store_uri):
    root = open_storage(store_uri).root
    store.faults.failing, store.faults.lost_answers = 0.2, 0.1
    with ThreadPoolExecutor(12) as pool:
        own = list(pool.map(lambda i: write_json(root / f"{i}.json", {"i": i}, exclusive=True), range(16)))
        again = list(pool.map(lambda i: write_json(root / f"{i}.json", {"other": i}, exclusive=True), range(16)))
    assert (own, again) == ([True] * 16, [False] * 16)
    found = read_many([root / f"{i}.json" for i in range(16)])
    assert [json.loads(content) for content in found] == [{"i": i} for i in range(16)]
    assert len(names_in(root)) == 16
    remove_folder(root)
    store.faults.heal()
    assert names_in(root) == []


def test_listings_are_read_to_their_last_page(s3, s3_uri):
    """Of 7 keys here, where a server gives 1,000."""
    root = open_storage(s3_uri).root
    paths = [root / "runs" / f"{number:032x}" / name for number in range(15) for name in ("spec.json", "result.json")]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda path: write_json(path, {}), paths))
    s3.faults.heal()
    s3.faults.page_keys = 7
    assert len(names_in(root / "runs")) == 15
    assert s3.faults.calls["LIST"] == 3, "folders come in pages too"
    assert len(remote_files.below(root)) == 30
    assert s3.faults.calls["LIST"] == 3 + 5
    remove_folder(root / "runs")
    assert names_in(root / "runs") == []
    assert remote_files.below(root) == {}


def test_an_outage_is_said_once_and_survived_by_reader_writer_and_driver(
    store, store_uri, store_kind, caplog, monkeypatch
):
    monkeypatch.setattr(remote_retries, "_SAY_AFTER_SECONDS", 0.5)
    root, lost = open_storage(store_uri).root, []
    write_json(root / "a.json", 1)
    with hold_study(root / "studies" / "s", wait=False, say=print, timing=Timing(0.1, 60.0, 0.1)):
        store.faults.gone_for(1.5)
        began = time.monotonic()
        writer = threading.Thread(target=lambda: lost.append(write_json(root / "b.json", 2, exclusive=True)))
        writer.start()
        assert read_json(root / "a.json") == 1
        assert time.monotonic() - began > 1.4
        writer.join()
    assert lost == [True]
    told = [record.message for record in caplog.records if record.name == "raystudy.storage"]
    assert len(told) == 2
    assert "does not answer" in told[0]
    assert "answers again" in told[1]
    store.faults.gone_for(60.0)
    for call in (lambda: read_json(root / "a.json"), lambda: names_in(root), lambda: exists(root / "a.json")):
        with (
            patience(0.2),
            pytest.raises(UnreadableError, match=f"{store_kind}://{BUCKET} must be reachable, but for 0 s"),
        ):
            call()
    with patience(0.2), pytest.raises(UnwritableError, match="the same command goes on from them"):
        write_json(root / "a.json", 3)


@pytest.mark.parametrize(
    ("store_kind", "status", "told"),
    [
        ("s3", 403, "must allow to write and delete s3://.*AccessDenied.*Check AWS_ACCESS_KEY_ID"),
        ("s3", 405, "must allow to write and delete s3://.*MethodNotAllowed"),
        ("s3", 507, "must be writable, but s3://.* is full: InsufficientStorage.*Make room"),
        ("gs", 403, "must allow to write and delete gs://.*AccessDenied.*Check GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs", 405, "must be writable, but gs://.*HTTP 405 Method Not Allowed: .*Make room and rights there"),
    ],
    indirect=["store_kind"],
)
def test_a_storage_that_refuses_writes_is_told_at_once_and_still_read(store, store_uri, status, told):
    storage = open_storage(store_uri)
    write_json(storage.root / "a.json", 1)
    store.faults.refuses_writes = status
    began = time.monotonic()
    for refused in (storage.prepare, lambda: write_json(storage.root / "a.json", 2)):
        with pytest.raises(UnwritableError, match=told):
            refused()
    assert time.monotonic() - began < 2.0
    assert read_json(storage.root / "a.json") == 1


def test_a_store_that_lets_the_second_writer_win_is_refused(store, store_uri):
    store.faults.ignores_conditions = True
    with pytest.raises(UnwritableError, match=r"must refuse to write what is there already \(a PUT with If-None"):
        open_storage(store_uri).prepare()
    assert names_in(open_storage(store_uri).root) == []


@pytest.mark.usefixtures("store")
def test_a_bucket_that_is_not_there_is_told_by_reader_and_writer(store_kind):
    nowhere = open_storage(f"{store_kind}://no-such-bucket/x")
    asks = [lambda: read_json(nowhere.root / "a"), lambda: names_in(nowhere.root), lambda: exists(nowhere.root / "a")]
    for asked in (nowhere.prepare, *(asks[:2] if store_kind == "s3" else asks)):
        with pytest.raises(
            StorageError, match=rf"a bucket that is there, but there is no {store_kind}://no-such-bucket\."
        ):
            asked()


@pytest.mark.usefixtures("s3")
def test_what_is_wrong_with_a_location_is_told_with_the_way_out(monkeypatch):
    for location in ("s3://key:secret@bucket/x", "s3://bucket/x?secret=1", "s3://key:secret/x"):
        with pytest.raises(StorageError, match="no credentials or options, but this s3://") as raised:
            open_storage(location)
        assert "secret@" not in str(raised.value)
    for location, told in {
        "http://bucket/x": "must be a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, but is http://",
        "s3:///x": "must be s3://BUCKET/PREFIX of letters",
        "s3://bucket/../x": "must be s3://BUCKET/PREFIX of letters",
        "s3://bucket/x\n": "must be s3://BUCKET/PREFIX of letters",
    }.items():
        with pytest.raises(StorageError, match=told):
            open_storage(location)
    assert str(open_storage(f"s3://{BUCKET}/x//y/").root) == f"s3://{BUCKET}/x/y"
    monkeypatch.setattr("raystudy.artifacts.remote_storage.find_spec", lambda name: None if "fs" in name else name)
    for kind in ("s3", "gs"):
        with pytest.raises(MissingPackageError, match=rf"pip install 'raystudy\[{kind}\]'"):
            open_storage(f"{kind}://bucket/x")


@pytest.mark.parametrize(("told", "seconds"), [("nan", 120), ("inf", 120), ("-1", 120), ("x", 120), ("0", 0), ("7", 7)])
def test_patience_is_never_endless(monkeypatch, told, seconds):
    monkeypatch.setenv("RAYSTUDY_STORAGE_PATIENCE", told)
    assert patience_seconds() == seconds


BAD_PORTS = ["http://h:99999", "http://h:x", "http://h:0", "http://:1"]
BAD_HOSTS = ["localhost:9000/'", "http://a b:9000", "http://[::1", "h?", "ftp://h", "http://h/'"]


@pytest.mark.parametrize("url", [*BAD_PORTS, *BAD_HOSTS, "http://key:secret@h:9000", "http://h:9000?secret=1"])
def test_an_endpoint_that_is_no_url_is_told_with_its_variable_and_without_what_it_may_hold(monkeypatch, url):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, url)
        with pytest.raises(StorageError, match=f"^{name} must be a URL") as raised:
            open_storage("s3://bucket/x")
        assert "secret" not in str(raised.value)
    monkeypatch.setenv(name, "https://minio.example:9000")
    assert open_storage("s3://bucket/x").root.storage_options["endpoint_url"] == "https://minio.example:9000"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    with pytest.raises(StorageError, match=r"^STORAGE_EMULATOR_HOST must be a URL") as raised:
        open_storage("gs://bucket/x")
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "emulator:9000")
    assert open_storage("gs://bucket/x").root.storage_options["endpoint_url"] == "http://emulator:9000"


_WITHOUT = """
import sys
from raystudy.artifacts.files import read_json
from raystudy.artifacts.storage import open_storage
from raystudy.errors import StorageError
try:
    read_json(open_storage(sys.argv[1]).root / "a")
except StorageError as error:
    print(error)
"""
_SOURCES = {
    "s3": ("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role", "AWS_ENDPOINT_URL"),
    "gs": ("Set GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or", "STORAGE_EMULATOR_HOST"),
}


@pytest.mark.usefixtures("store")
def test_absent_credentials_and_an_unreachable_endpoint_are_told(store_kind, monkeypatch):
    way_out, endpoint = _SOURCES[store_kind]
    without = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "STORAGE_EMULATOR_HOST")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    words = [sys.executable, "-c", _WITHOUT, f"{store_kind}://bucket"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert f"{store_kind}://bucket needs credentials, but found none" in done.stdout, done.stderr
    assert way_out in done.stdout
    monkeypatch.setenv(endpoint, "http://127.0.0.1:9")
    with patience(0.3), pytest.raises(UnreadableError, match=rf"must be reachable.*\({endpoint} for {store_kind}\)"):
        read_json(open_storage(f"{store_kind}://bucket").root / "a")


def test_no_error_shows_a_credential(s3_uri, monkeypatch):
    root = open_storage(s3_uri).root
    assert is_remote(root)

    def leak(_: object) -> None:
        raise OSError(5, f"signed with {SECRET}")

    monkeypatch.setattr(remote_files, "filesystem", leak)
    with patience(0.0), pytest.raises(UnreadableError, match=r"signed with \(AWS_SECRET_ACCESS_KEY\)"):
        read_json(root / "a")


def test_a_local_storage_loads_none_of_the_packages_of_remote_ones(tmp_path):
    code = (
        "import sys, raystudy.study.results; from raystudy.artifacts.storage import open_storage\n"
        f"storage = open_storage({str(tmp_path)!r}); storage.prepare(); storage.runs.read_all({{}})\n"
        "print([name for name in ('fsspec', 'upath', 's3fs', 'botocore', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
    assert isinstance(open_storage(tmp_path).root, Path)
