"""What every kind of storage must do: a local folder, fsspec's memory, and S3 (a real server, moto's, over HTTP).

The same cases for all three, then what only a network makes: calls that fail, answers that are lost, outages, refusals.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raystudy.artifacts import remote_files, remote_retries
from raystudy.artifacts.damage import look, read_seen, set_aside, set_torn_json_aside
from raystudy.artifacts.files import (
    StoragePath,
    download,
    exists,
    is_folder,
    is_remote,
    json_files,
    move,
    names_in,
    read_bytes,
    read_json,
    read_many,
    read_range,
    remove_file,
    remove_folder,
    size_of,
    upload,
    write_bytes,
    write_json,
)
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.remote_retries import patience
from raystudy.artifacts.storage import open_storage
from raystudy.errors import MissingPackageError, StorageError, StudyHeldError, UnreadableError, UnwritableError
from raystudy.execute.driver_lock import Timing, find_holder, hold_study
from tests.artifacts.test_ledger import RESULT
from tests.object_store import BUCKET, SECRET

KINDS = ("local", "memory", "s3")


@pytest.fixture(params=KINDS)
def location(request, tmp_path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("s3_uri")
    return str(tmp_path / "storage") if request.param == "local" else f"memory://{uuid.uuid4().hex}/storage"


@pytest.fixture
def root(location) -> StoragePath:
    storage = open_storage(location)
    storage.prepare()
    assert storage.is_absolute
    assert str(storage.root) == location
    return storage.root


def test_files_are_written_read_listed_moved_and_removed_on_every_kind(root, tmp_path):
    path = root / "runs" / "r" / "result.json"
    absent = (read_bytes(path), read_json(path), size_of(path), exists(path), is_folder(path.parent), json_files(root))
    assert absent == (None, None, None, False, False, [])
    assert names_in(root / "runs") == []
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert size_of(path) == len(read_bytes(path)) == 12
    assert read_range(path, 2, 6) == read_bytes(path)[2:6]
    assert (exists(path), exists(path.parent), is_folder(path.parent), is_folder(path)) == (True, True, True, False)
    write_bytes(root / "runs" / "r" / "eval" / "e.json", b"not json")
    with pytest.raises(StorageError, match="must be JSON, but is torn or foreign"):
        read_json(root / "runs" / "r" / "eval" / "e.json")
    assert (names_in(root / "runs"), sorted(names_in(path.parent))) == (["r"], ["eval", "result.json"])
    assert read_many([path, root / "no", path]) == [read_bytes(path), None, read_bytes(path)]

    (tmp_path / "file").write_bytes(b"content")
    assert upload(tmp_path / "file", root / "up", exclusive=True)
    assert download(root / "up", tmp_path / "back" / "file")
    assert (tmp_path / "back" / "file").read_bytes() == b"content"
    assert not download(root / "no", tmp_path / "back" / "no")
    assert os.listdir(tmp_path / "back") == ["file"]

    assert move(root / "runs" / "r", root / "runs" / "s")
    assert not move(root / "runs" / "r", root / "runs" / "t")
    assert read_json(root / "runs" / "s" / "result.json") == {"a": 2}
    remove_file(root / "runs" / "s" / "result.json")
    remove_file(root / "runs" / "s" / "result.json")
    assert names_in(root / "runs" / "s") == ["eval"]
    remove_folder(root / "runs" / "s")
    assert names_in(root / "runs") == []


def test_of_many_writers_of_one_name_the_first_wins_on_every_kind(root, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    for round_number in range(4):
        path = root / f"round-{round_number}"
        with ThreadPoolExecutor(12) as pool:
            written = pool.map(lambda i, path=path: write_bytes(path, b"%d" % i, exclusive=True), range(6, 12))
            uploaded = pool.map(lambda i, path=path: upload(tmp_path / f"{i}", path, exclusive=True), range(6))
            won = [*uploaded, *written]
        assert sum(won) == 1
        assert read_bytes(path) == b"%d" % won.index(True)


def test_a_ledger_keeps_the_first_result_and_numbers_attempts_on_every_kind(root):
    ledger = RunLedger(root)
    assert ledger.write_result("r", RESULT)
    assert not ledger.write_result("r", {**RESULT, "status": "diverged"})
    for cause in "ab":
        ledger.write_attempt("r", {"cause": cause})
    ledger.write_curve("r", [{"loss": 1.0}, {"loss": float("nan")}])
    assert ledger.read("r").metric("loss", "v") == 2.5
    assert ledger.read_attempts("r") == [{"cause": "a"}, {"cause": "b"}]
    assert ledger.read_curve("r") == [{"loss": 1.0}, {"loss": None}]
    assert ledger.started() == {"r"}


def test_damage_is_moved_aside_only_while_it_is_what_was_seen_on_every_kind(root):
    path = root / "runs" / "r" / "result.json"
    write_bytes(path, b"torn")
    content, seen = read_seen(path)
    assert content == b"torn"
    remove_file(path)
    write_bytes(path, b"made anew")
    assert set_aside(path, seen) is None
    assert read_bytes(path) == b"made anew"
    for number in range(2):
        write_bytes(path, b"torn %d" % number)
        aside = set_aside(path, read_seen(path)[1] if number else look(path))
        assert aside.name == f"result.json.bad-{number}"
        assert (read_bytes(aside), read_bytes(path)) == (b"torn %d" % number, None)
    write_bytes(root / "shards" / "d" / "manifest.json", b"torn")
    aside = set_aside(root / "shards" / "d", look(root / "shards" / "d"))
    assert read_bytes(aside / "manifest.json") == b"torn"
    for name in ("progress.json", "lock.json"):
        write_bytes(root / "studies" / "s" / name, b"torn")
    assert len(set_torn_json_aside(root / "studies" / "s")) == 1
    assert exists(root / "studies" / "s" / "lock.json")


def test_a_study_has_one_driver_at_a_time_on_every_kind(root):
    folder, quick = root / "studies" / "s", Timing(0.05, 60.0, 0.01)
    spans = []

    def take(_: int) -> None:
        with hold_study(folder, wait=True, say=lambda _: None, timing=quick):
            began = time.monotonic()
            time.sleep(0.02)
            spans.append((began, time.monotonic()))

    with hold_study(folder, wait=False, say=print, timing=quick) as is_clean:
        assert is_clean
        assert f"process {os.getpid()} on" in find_holder(folder)
        with pytest.raises(StudyHeldError, match="must have one driver"), hold_study(folder, wait=False, say=print):
            pass
        first = set(json.loads(read_bytes(folder / "driver" / "1.json")).items())
        time.sleep(0.3)
        assert set(json.loads(read_bytes(folder / "driver" / "1.json")).items()) != first, "the counter is raised"
    assert find_holder(folder) is None
    assert names_in(folder / "driver") == ["1.released"]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take, range(4)))
    spans.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert names_in(folder / "driver") == ["5.released"]


def test_calls_that_fail_and_answers_that_are_lost_change_nothing(s3, s3_uri):
    root = open_storage(s3_uri).root
    s3.faults.failing, s3.faults.lost_answers = 0.2, 0.1
    with ThreadPoolExecutor(12) as pool:
        own = list(pool.map(lambda i: write_json(root / f"{i}.json", {"i": i}, exclusive=True), range(16)))
        again = list(pool.map(lambda i: write_json(root / f"{i}.json", {"other": i}, exclusive=True), range(16)))
    assert (own, again) == ([True] * 16, [False] * 16)
    found = read_many([root / f"{i}.json" for i in range(16)])
    assert [json.loads(content) for content in found] == [{"i": i} for i in range(16)]
    assert len(names_in(root)) == 16
    remove_folder(root)
    s3.faults.heal()
    assert names_in(root) == []


def test_an_outage_is_said_once_and_survived_by_reader_writer_and_driver(s3, s3_uri, caplog, monkeypatch):
    monkeypatch.setattr(remote_retries, "_SAY_AFTER_SECONDS", 0.5)
    root, lost = open_storage(s3_uri).root, []
    write_json(root / "a.json", 1)
    with hold_study(root / "studies" / "s", wait=False, say=print, timing=Timing(0.1, 60.0, 0.1)):
        s3.faults.gone_for(1.5)
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
    s3.faults.gone_for(60.0)
    for call in (lambda: read_json(root / "a.json"), lambda: names_in(root), lambda: exists(root / "a.json")):
        with patience(0.2), pytest.raises(UnreadableError, match=f"s3://{BUCKET} must be reachable, but for 0 s every"):
            call()
    with patience(0.2), pytest.raises(UnwritableError, match="the same command goes on from them"):
        write_json(root / "a.json", 3)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (403, "must allow to write and delete s3://.*AccessDenied.*Check AWS_ACCESS_KEY_ID"),
        (405, "must allow to write and delete s3://.*MethodNotAllowed"),
        (507, "must be writable, but s3://.* is full: InsufficientStorage.*Make room"),
    ],
)
def test_a_storage_that_refuses_writes_is_told_at_once_and_still_read(s3, s3_uri, status, told):
    storage = open_storage(s3_uri)
    write_json(storage.root / "a.json", 1)
    s3.faults.refuses_writes = status
    began = time.monotonic()
    for refused in (storage.prepare, lambda: write_json(storage.root / "a.json", 2)):
        with pytest.raises(UnwritableError, match=told):
            refused()
    assert time.monotonic() - began < 2.0
    assert read_json(storage.root / "a.json") == 1


def test_a_store_that_lets_the_second_writer_win_is_refused(s3, s3_uri):
    s3.faults.ignores_conditions = True
    with pytest.raises(UnwritableError, match=r"must refuse to write what is there already \(a PUT with If-None"):
        open_storage(s3_uri).prepare()
    assert names_in(open_storage(s3_uri).root) == []


@pytest.mark.usefixtures("s3")
def test_what_is_wrong_with_a_location_is_told_with_the_way_out(monkeypatch):
    nowhere = open_storage("s3://no-such-bucket/x")
    for asked in (nowhere.prepare, lambda: read_json(nowhere.root / "a"), lambda: names_in(nowhere.root)):
        with pytest.raises(StorageError, match=r"a bucket that is there, but there is no s3://no-such-bucket\."):
            asked()
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
    monkeypatch.setattr("raystudy.artifacts.remote_storage.find_spec", lambda name: None if name == "s3fs" else name)
    with pytest.raises(MissingPackageError, match=r"pip install 'raystudy\[s3\]'"):
        open_storage("s3://bucket/x")


_WITHOUT = """
from raystudy.artifacts.files import read_json
from raystudy.artifacts.storage import open_storage
from raystudy.errors import StorageError
try:
    read_json(open_storage("s3://bucket").root / "a")
except StorageError as error:
    print(error)
"""


@pytest.mark.usefixtures("s3")
def test_absent_credentials_and_an_unreachable_endpoint_are_told(monkeypatch):
    environment = {k: v for k, v in os.environ.items() if k not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    done = subprocess.run([sys.executable, "-c", _WITHOUT], env=environment, capture_output=True, text=True, timeout=60)
    assert "s3://bucket needs credentials, but found none" in done.stdout, done.stderr
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role" in done.stdout
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with patience(0.3), pytest.raises(UnreadableError, match=r"must be reachable.*\(AWS_ENDPOINT_URL for s3\)"):
        read_json(open_storage("s3://bucket").root / "a")


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
