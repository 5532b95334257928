"""The folder in which DeepSpeed's operations are built, and locks that killed builds leave. Without DeepSpeed."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from raystudy.artifacts.node_room import cache_folder
from raystudy.errors import SpecError
from raystudy.execute.doctor import _cache
from raystudy.reference.builds import STALE_MINUTES, VARIABLE, build_folder, build_locks, prepare_builds, remove_lock
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def builder(monkeypatch):
    """A stand-in for DeepSpeed's builder of operations; `built` are the names that it built."""

    class OpBuilder:
        name = "fast_op"
        built: ClassVar[list] = []

        def jit_load(self, verbose=True):
            self.built.append((self.name, verbose))
            return "loaded"

    module = ModuleType("deepspeed.ops.op_builder.builder")
    module.OpBuilder = OpBuilder
    for name in ("deepspeed", "deepspeed.ops", "deepspeed.ops.op_builder"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return OpBuilder


def a_lock(folder, minutes_old=0.0):
    lock = folder / "fast_op" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    when = time.time() - 60 * minutes_old
    for path in (lock, lock.parent):
        os.utime(path, (when, when))
    return lock


def test_the_folder_is_the_users_own_for_this_machine_and_outside_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = build_folder()
    assert folder.is_relative_to(tmp_path / "raystudy")
    assert ROOT not in folder.parents
    assert os.uname().nodename in folder.name
    monkeypatch.setenv(VARIABLE, "somewhere")
    assert build_folder() == folder.__class__("somewhere").absolute()


def test_without_a_home_that_can_be_written_it_is_the_users_own_below_the_temporary_folder(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    folder = build_folder()
    assert folder.is_relative_to(tmp_path)
    (own,) = tmp_path.glob("raystudy-*")
    assert own.stat().st_mode & 0o077 == 0


def test_preparing_sets_the_folder_for_this_process_and_those_it_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    told = []
    folder = prepare_builds(told.append)
    assert folder.is_dir()
    assert os.environ[VARIABLE] == str(folder)
    assert told == []


def test_a_stale_lock_is_removed_and_said_and_one_that_may_be_in_use_stays(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    lock = a_lock(tmp_path)
    told = []
    prepare_builds(told.append)
    assert lock.exists()  # quiet for no time yet
    a_lock(tmp_path, minutes_old=2 * STALE_MINUTES)
    prepare_builds(told.append)
    assert not lock.exists()
    assert list(lock.parent.iterdir()) == []
    (line,) = told
    assert str(lock) in line
    assert "killed" in line


def test_a_lock_that_a_process_holds_open_is_never_stale(tmp_path):
    lock = a_lock(tmp_path)
    script = f"import sys; file = open({str(lock)!r}); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        a_lock(tmp_path, minutes_old=10 * STALE_MINUTES)
        (found,) = build_locks(tmp_path)
        assert found.holder == holder.pid
        assert not found.is_stale
        assert not remove_lock(found)  # given back
        assert lock.exists()
        holder.stdin.close()
        holder.wait()
    a_lock(tmp_path, minutes_old=10 * STALE_MINUTES)
    (found,) = build_locks(tmp_path)
    assert found.is_stale
    assert remove_lock(found)
    assert not remove_lock(found)  # gone already
    assert not lock.exists()


def test_a_build_going_on_keeps_its_lock_while_it_writes_files(tmp_path):
    lock = a_lock(tmp_path, minutes_old=10 * STALE_MINUTES)
    (lock.parent / "fast_op.o").touch()
    assert not build_locks(tmp_path)[0].is_stale


def test_an_operation_that_is_built_is_said_before_and_after_and_one_that_is_there_is_not(
    builder, monkeypatch, tmp_path
):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    told = []
    prepare_builds(told.append)
    prepare_builds(told.append)  # twice: said once all the same
    assert builder().jit_load() == "loaded"
    assert [line.split(" in ")[0] for line in told] == ["building DeepSpeed's fast_op", "built DeepSpeed's fast_op"]
    assert str(tmp_path) in told[0]
    (tmp_path / "fast_op").mkdir()
    (tmp_path / "fast_op" / "fast_op.so").touch()
    assert builder().jit_load(verbose=True) == "loaded"
    assert len(told) == 2
    assert builder.built == [("fast_op", False)] * 2


def test_without_a_home_the_cache_is_the_users_own_and_what_another_could_have_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("RAYSTUDY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    folder = tmp_path / f"raystudy-{os.getuid()}"
    assert cache_folder() == cache_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o770)
    with pytest.raises(SpecError, match=r"a folder of user \d+ with rights 770. Remove .* or set RAYSTUDY_CACHE"):
        cache_folder()
    assert "with rights 770" in str(_cache()), "and doctor tells it"
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    with pytest.raises(PermissionError, match="with rights 770"):
        build_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    folder.rmdir()
    (tmp_path / "mine").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(SpecError, match="is a link of user"):
        cache_folder()
    folder.unlink()
    folder.write_text("a file")
    with pytest.raises(SpecError, match="File exists"):
        cache_folder()
    folder.unlink()
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    folder.rename(tmp_path / "raystudy-12345")
    with pytest.raises(SpecError, match="must be a folder of user 12345 that nobody else can write to"):
        cache_folder()
