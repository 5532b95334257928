"""Damaged things are kept aside without ever losing what is whole; leftovers of dead writers go."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raystudy.artifacts import damage
from raystudy.artifacts.damage import look, set_aside, set_torn_json_aside
from raystudy.artifacts.files import write_json, writing_name
from raystudy.artifacts.leftovers import DAY_SECONDS, remove_leftovers
from tests.conftest import ROOT


def test_what_is_set_aside_gets_the_first_free_name(tmp_path):
    path = tmp_path / "result.json"
    for number in range(3):
        path.write_text(f"bad {number}")
        assert set_aside(path, look(path)) == tmp_path / f"result.json.bad-{number}"
    assert sorted(p.read_text() for p in tmp_path.iterdir()) == ["bad 0", "bad 1", "bad 2"]


def test_a_folder_is_set_aside_whole(tmp_path):
    for number in range(2):
        (tmp_path / "shard").mkdir()
        (tmp_path / "shard" / "x").write_text(str(number))
        assert set_aside(tmp_path / "shard", look(tmp_path / "shard")).name == f"shard.bad-{number}"
    assert (tmp_path / "shard.bad-0" / "x").read_text() == "0"


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_was_made_anew_meanwhile_stays_where_it_is(tmp_path, monkeypatch, is_folder):
    path = tmp_path / "thing"

    def make(content: str) -> None:
        if is_folder:
            path.mkdir()
        (path / "x" if is_folder else path).write_text(content)

    def content() -> str:
        return (path / "x" if is_folder else path).read_text()

    make("bad")
    seen = look(path)
    set_aside(path, seen)
    make("good")
    assert set_aside(path, seen) is None
    assert content() == "good"
    # The same when the other launch is faster by a hair, between the look and the rename.
    monkeypatch.setattr(damage, "look", lambda p, real=look: seen if p == path else real(p))
    assert set_aside(path, seen) is None
    assert content() == "good"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def _mend(arguments: tuple[Path, int]) -> int:
    path, number = arguments
    for _ in range(40):
        seen = look(path)
        try:
            is_bad = path.read_text() == "bad"
        except FileNotFoundError:
            is_bad = False
        if is_bad:
            set_aside(path, seen)
        write_json(path, {"made": number}, exclusive=True)
    return number


def test_many_that_meet_the_same_damage_at_once_lose_no_good_copy(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for round_number in range(5):
            path = tmp_path / f"{round_number}.json"
            path.write_text("bad")
            pool.map(_mend, [(path, number) for number in range(4)], chunksize=1)
            assert "made" in path.read_text()
            aside = [p.read_text() for p in tmp_path.glob(f"{round_number}.json.bad-*")]
            assert aside == ["bad"], "the bad one is kept once, a good one never taken for it"


def test_torn_json_of_a_study_is_set_aside_and_told(tmp_path):
    (tmp_path / "study.json").write_text('{"study": ')
    (tmp_path / "lock.json").write_text("{")
    (tmp_path / "frozen.json").write_text("{")
    write_json(tmp_path / "comparison.json", {})
    (line,) = set_torn_json_aside(tmp_path)
    assert "study.json must be JSON" in line
    assert "kept as study.json.bad-0" in line
    assert (tmp_path / "comparison.json").exists()
    assert (tmp_path / "lock.json").exists(), "a study must not come unlocked by damage"
    assert (tmp_path / "frozen.json").exists(), "learning rates must not come unfrozen by damage"


def test_leftovers_of_dead_writers_go_and_those_of_live_ones_stay(tmp_path):
    code = "from raystudy.artifacts.files import writing_name; print(writing_name(), end='')"
    dead = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    elsewhere = f".writing-00000000-1-{'0' * 32}"
    run = tmp_path / "runs" / "r"
    (run / "eval").mkdir(parents=True)
    (tmp_path / "shards" / dead).mkdir(parents=True)
    for folder in (run, run / "eval"):
        for name in (dead, writing_name(), elsewhere):
            (folder / name).write_text("half")
    old = run / f".writing-00000000-2-{'0' * 32}"
    old.write_text("half")
    a_day_ago = time.time() - DAY_SECONDS - 60
    os.utime(old, (a_day_ago, a_day_ago))
    assert remove_leftovers(tmp_path, tmp_path / "studies" / "s", ["r", "gone"]) == 4
    assert not old.exists()
    assert not (tmp_path / "shards" / dead).exists()
    assert len(list(run.rglob(".writing-*"))) == 4
