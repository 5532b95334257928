"""What raystudy has not put on a storage is named, and never removed, whatever it is called."""

import json

import pytest

from tests.cli.conftest import contents

FOREIGN = [
    "runs/exp1/events.out",
    "runs/notes.bad-idea/x",
    "runs/results.json.bad-1",
    f"runs/{'5' * 32}/metrics.csv",  # other tools name their runs so too
    f"runs/{'6' * 32}",
    "shards/my.bin",
    "shards/.writing-a-paper/draft",
    f"built/{'a' * 32}/made.txt",
    "built/aa.json",
    "studies/mine/chapter.md",
    "studies/notes.txt",
]


def put(root, names=FOREIGN):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


@pytest.mark.parametrize("names", [FOREIGN, []])
@pytest.mark.parametrize("words", [("prune", "--yes"), ("verify",), ("usage",)])
def test_a_folder_that_holds_nothing_of_raystudy_is_refused_and_stays_as_it_is(tmp_path, verb, words, names):
    put(tmp_path, names)
    before = contents(tmp_path)
    status, _, told = verb("storage", *words, "--storage", tmp_path)
    assert (status, "must hold a study, runs or shards of raystudy" in told) == (3, True), told
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob("driver"))


def test_foreign_entries_on_a_storage_are_named_and_stay_while_the_unused_goes(storage, verb):
    before = contents(storage)
    put(storage)
    unused = storage / "runs" / ("7" * 32)
    unused.mkdir()
    (unused / "spec.json").write_text("{}")
    for name in (f".aside-{'0' * 32}", f".writing-removed-{'0' * 32}", f"{'7' * 32}.bad-12"):
        (storage / "runs" / name).mkdir()
    status, out, _ = verb("storage", "prune", "--storage", storage, "--yes")
    assert (status, "removed 4 items" in out) == (0, True), out
    assert f"foreign, not raystudy's and left alone: {len(FOREIGN)}" in out
    assert contents(storage) == before | dict.fromkeys(FOREIGN, b"{}")
    assert {path.name for path in (storage / "runs").iterdir() if "7" * 32 in path.name} == set()


def test_usage_counts_and_verify_names_what_is_foreign(storage, verb):
    put(storage)
    _, out, _ = verb("storage", "usage", "--storage", storage, "--json")
    assert json.loads(out)["kinds"]["foreign"] == {"count": len(FOREIGN), "bytes": 2 * len(FOREIGN)}
    assert json.loads(out)["unused"]["bytes"] == 0
    assert "prune leaves them alone" in verb("storage", "usage", "--storage", storage)[1]
    status, out, _ = verb("storage", "verify", "--storage", storage, "--json")
    assert (status, len(json.loads(out)["foreign"])) == (0, len(FOREIGN))
    assert f"{len(FOREIGN)} entries are not raystudy's" in verb("storage", "verify", "--storage", storage)[1]


def test_a_storage_whose_last_study_was_removed_can_still_be_pruned(storage, verb):
    for path in sorted((storage / "studies").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert verb("storage", "prune", "--storage", storage, "--yes")[0] == 0
    assert contents(storage) == {}
