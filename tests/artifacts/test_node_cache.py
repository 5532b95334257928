"""What lies on a remote storage is on a node once, whole and checked, whoever asks, dies or runs out of room.

`file://` stands for a remote storage that several processes see: it is read and written through fsspec as they are.
"""

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from raystudy.artifacts import node_cache, sealed
from raystudy.artifacts.files import write_bytes
from raystudy.artifacts.node_cache import fetched, on_this_node, place_here, take_fetched
from raystudy.artifacts.sealed import is_sealed
from raystudy.artifacts.shards import open_tokens, open_view, shard_folder
from raystudy.errors import DamagedError, SpecError
from tests.conftest import ROOT, make_shards

fork = multiprocessing.get_context("fork")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def remote(tmp_path, cache) -> UPath:
    """A remote storage that no node has anything of yet."""
    make_shards(tmp_path / "storage")
    forget(cache)
    return UPath(f"file://{tmp_path}/storage")


def forget(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    sealed._verified.clear()
    take_fetched()


def folders_of(remote: UPath) -> list[UPath]:
    return sorted(UPath(remote / "shards").iterdir(), key=lambda folder: folder.name)


def counting(download, log: Path):
    """`download`, slowly, and noted by whoever calls it."""

    def slow(path, local):
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        time.sleep(0.05)
        return download(path, local)

    return slow


def test_what_a_builder_writes_is_the_same_on_every_storage_and_is_not_fetched_again(tmp_path, cache):
    remote = UPath("memory://node-cache/built")
    there, here = make_shards(remote), make_shards(tmp_path / "local")
    assert there == here
    assert take_fetched() == [], "what a node builds it has"
    files = {path.name: path for path in shard_folder(tmp_path / "local", here[0]).iterdir()}
    for name, path in files.items():
        assert (shard_folder(remote, there[0]) / name).read_bytes() == path.read_bytes()
    forget(cache)
    view, local = open_view(remote, there[0]), open_view(tmp_path / "local", here[0])
    assert len(take_fetched()) == 2, "the view and the shard that it reads"
    windows = [v.sources[0].read_windows(np.arange(3), 16) for v in (view, local)]
    assert (windows[0] == windows[1]).all()


def test_builders_at_once_leave_one_whole_folder_each_and_none_without_its_manifest(tmp_path, cache, monkeypatch):
    place = UPath(f"file://{tmp_path}/storage", auto_mkdir=True)
    unsealed = place / "shards" / make_shards(tmp_path / "local")[1]
    write_bytes(unsealed / "tokens.bin", b"a builder died before the manifest")
    assert not is_sealed(unsealed)
    builders = [fork.Process(target=make_shards, args=(place,)) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(30)
    assert [builder.exitcode for builder in builders] == [0] * 4
    forget(cache)
    monkeypatch.setattr(sealed, "_PART_BYTES", 1000)
    assert {folder.name for folder in folders_of(place)} == {f.name for f in (tmp_path / "local/shards").iterdir()}
    for folder in folders_of(place):
        sealed.verify_again(folder)


def test_of_processes_that_ask_at_once_one_fetches(remote, cache, tmp_path, monkeypatch):
    folder = folders_of(remote)[0]
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    monkeypatch.setattr(node_cache, "download", counting(node_cache.download, tmp_path / "log"))
    asking = [fork.Process(target=open_sealed_here, args=(folder,)) for _ in range(8)]
    for process in asking:
        process.start()
    for process in asking:
        process.join(30)
    assert [process.exitcode for process in asking] == [0] * 8
    assert sorted((tmp_path / "log").read_text().split()) == names
    assert not list(cache.rglob(".writing-*"))


def open_sealed_here(folder: UPath) -> None:
    sealed.open_sealed(on_this_node(folder))


def test_a_fetcher_that_is_killed_blocks_nobody_and_leaves_nothing(remote, cache, tmp_path, monkeypatch):
    folder, own = folders_of(remote)[0], node_cache.download
    begun = tmp_path / "begun"

    def endless(path, local):
        own(path, local)
        begun.touch()
        time.sleep(60)

    monkeypatch.setattr(node_cache, "download", endless)
    fetcher = fork.Process(target=on_this_node, args=(folder,))
    fetcher.start()
    while not begun.exists():
        time.sleep(0.01)
    monkeypatch.setattr(node_cache, "download", own)
    waiting = fork.Process(target=open_sealed_here, args=(folder,))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive(), "it waits for the one that fetches"
    assert not place_here(folder).exists(), "nothing half is there under the name"
    os.kill(fetcher.pid, signal.SIGKILL)
    waiting.join(30)
    fetcher.join(30)
    assert waiting.exitcode == 0
    on_this_node(folders_of(remote)[1])  # a fetch when the killed one is surely seen to be gone
    assert not list(cache.rglob(".writing-*"))
    assert sealed.open_sealed(on_this_node(folder))["files"]


def test_what_was_changed_on_the_way_or_here_is_fetched_anew_and_what_is_changed_there_is_told(
    remote, cache, monkeypatch
):
    folder = next(f for f in folders_of(remote) if (f / "tokens.bin").exists())
    own, spoilt = node_cache.download, []

    def spoiling(path, local):
        own(path, local)
        if len(spoilt) < most:
            spoilt.append(path)
            flip_a_byte(local)
        return True

    monkeypatch.setattr(node_cache, "download", spoiling)
    most = 1
    here = on_this_node(folder)
    assert len(spoilt) == 1
    assert (here / "tokens.bin").read_bytes() == (folder / "tokens.bin").read_bytes()

    flip_a_byte(here / "tokens.bin")
    sealed._verified.clear()  # another process
    assert open_tokens(remote, folder.name).num_documents
    assert (here / "tokens.bin").read_bytes() == (folder / "tokens.bin").read_bytes()

    (here / "manifest.json").unlink()  # somebody has begun to tidy up
    assert open_tokens(remote, folder.name).num_documents
    forget(cache)
    most = 100
    with pytest.raises(DamagedError, match="has SHA-256") as told:
        on_this_node(folder)
    assert told.value.path == folder, "a launch mends the storage, not the copy"
    assert not place_here(folder).exists()
    monkeypatch.setattr(node_cache, "download", own)
    (folder / "documents.npy").unlink()
    with pytest.raises(DamagedError, match=r"documents\.npy is missing"):
        on_this_node(folder)
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(manifest.replace(b"documents.npy", b"../../escaped"))
    with pytest.raises(DamagedError, match="which is no file of it"):
        on_this_node(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json is missing"):
        on_this_node(folder)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_above_the_limit_what_was_not_used_for_longest_goes_and_what_is_in_use_stays(remote, cache, monkeypatch):
    first, second, third = folders_of(remote)
    for folder in (first, second):
        process = fork.Process(target=on_this_node, args=(folder,))  # one that has ended
        process.start()
        process.join(30)
        time.sleep(0.02)
    on_this_node(first)  # in use by this process, and later than the second
    monkeypatch.setenv("RAYSTUDY_CACHE_GB", "1e-6")
    others = cache / "submitted" / second.name
    shutil.copytree(place_here(second), others)
    on_this_node(third)
    assert others.exists(), "what is no copy is left alone"
    assert [place_here(folder).exists() for folder in (first, second, third)] == [True, False, True]
    assert on_this_node(second).exists(), "what is in use may be more than the limit"
    assert all(place_here(folder).exists() for folder in (first, second, third))
    forget(cache)
    monkeypatch.setenv("RAYSTUDY_CACHE_GB", "many")
    with pytest.raises(SpecError, match="RAYSTUDY_CACHE_GB must be a number"):
        on_this_node(first)


SMALL_DISK = """
import os, shutil, sys
from collections import namedtuple
from pathlib import Path
from upath import UPath
from raystudy.artifacts import node_room
from raystudy.artifacts.node_cache import fetched, on_this_node
from raystudy.errors import NodeFullError

def told(ask):
    try:
        ask()
    except NodeFullError as error:
        print(error)
    files = [path for path in Path(os.environ["RAYSTUDY_CACHE"]).rglob("*") if path.is_file()]
    assert not [path for path in files if path.stat().st_size], files

folder = UPath(sys.argv[1])
told(lambda: on_this_node(folder))
real = shutil.disk_usage
node_room.shutil = namedtuple("Lying", "disk_usage rmtree")(lambda path: real("/"), shutil.rmtree)  # others write too
told(lambda: on_this_node(folder))
told(lambda: fetched(folder / "tokens.bin").__enter__())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_is_told_with_folder_bytes_and_way_out_and_nothing_half_stays(remote, tmp_path):
    folder = next(
        f for f in folders_of(remote) if (f / "tokens.bin").exists() and (f / "tokens.bin").stat().st_size > 4096
    )
    small = tmp_path / "small"
    small.mkdir()
    (tmp_path / "code.py").write_text(SMALL_DISK)
    words = f"mount -t tmpfs -o size=4k tmpfs {small}; exec {sys.executable} {tmp_path / 'code.py'} {folder}"
    environment = {**os.environ, "RAYSTUDY_CACHE": str(small), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["unshare", "-m", "sh", "-ec", words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for path in folder.iterdir())
    before, during, single = done.stdout.splitlines()
    for line in (before, during, single):
        assert line.startswith("the cache of a node must have room for")
        assert str(small) in line
        assert "set RAYSTUDY_CACHE to a folder on a larger disk; finished runs are kept" in line
    assert f"room for {size:,} bytes" in before
    assert "4,096 bytes free" in before
    assert "No space left on device" in during


def test_without_locks_a_node_still_reads_what_is_whole_and_removes_nothing(remote, cache, monkeypatch):
    first, second, _ = folders_of(remote)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    process = fork.Process(target=on_this_node, args=(first,))
    process.start()
    process.join(30)
    monkeypatch.setenv("RAYSTUDY_CACHE_GB", "1e-6")
    assert sealed.open_sealed(on_this_node(second))["files"]
    assert place_here(first).exists(), "nobody can tell whether another process is at it"
    assert not list(cache.rglob(".writing-*"))


def test_a_single_file_is_here_while_it_is_read_and_a_local_one_is_read_where_it_lies(remote, tmp_path):
    file = folders_of(remote)[0] / "manifest.json"
    with fetched(file) as here:
        assert here.read_bytes() == file.read_bytes()
    assert not here.exists()
    with fetched(file.with_name("absent")) as here:
        assert here is None
    local = tmp_path / "storage" / "shards"
    assert on_this_node(local) is local
    with fetched(local / file.parent.name / "manifest.json") as here:
        assert here == local / file.parent.name / "manifest.json"
