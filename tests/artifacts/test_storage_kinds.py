"""What every kind of storage must do: a local folder, fsspec's memory, S3 and Google Cloud Storage (servers over HTTP).

What only a network makes is in test_remote_faults.py.
"""

import itertools
import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from raystudy.artifacts import remote_files
from raystudy.artifacts.damage import look, read_seen, set_aside, set_torn_json_aside
from raystudy.artifacts.files import (
    StoragePath,
    download,
    exists,
    is_folder,
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
from raystudy.artifacts.storage import open_storage
from raystudy.errors import StorageError, StudyHeldError
from raystudy.execute.driver_lock import Timing, find_holder, hold_study
from tests.artifacts.test_ledger import RESULT

KINDS = ("local", "memory", "s3", "gs")


@pytest.fixture(params=KINDS)
def location(request, tmp_path) -> str:
    if request.param in ("s3", "gs"):
        return request.getfixturevalue(f"{request.param}_uri")
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


@pytest.mark.parametrize("location", ["memory", "s3", "gs"], indirect=True)
def test_a_folder_that_is_made_anew_while_it_is_set_aside_is_kept(root, monkeypatch):
    folder, real, listings = root / "shards" / "d", remote_files.copy, []
    for name in ("manifest.json", "tokens.bin"):
        write_bytes(folder / name, b"torn")
    seen = look(folder)

    def then_made_anew(path, to):
        real(path, to)
        if path.name == "manifest.json":
            write_bytes(path, b"made anew")

    monkeypatch.setattr(remote_files, "copy", then_made_anew)
    real_below = remote_files.below
    monkeypatch.setattr(remote_files, "below", lambda *all: listings.append(all) or real_below(*all))
    aside = set_aside(folder, seen)
    assert (read_bytes(folder / "manifest.json"), read_bytes(folder / "tokens.bin")) == (b"made anew", None)
    assert (read_bytes(aside / "tokens.bin"), len(listings)) == (b"torn", 1)

    def gone(path, _to):
        raise FileNotFoundError(path)

    monkeypatch.setattr(remote_files, "copy", gone)
    assert set_aside(folder, look(folder)) is None
    assert read_bytes(folder / "manifest.json") == b"made anew"


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
