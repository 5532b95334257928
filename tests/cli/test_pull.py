"""Records pulled to a folder: a storage of its own, pulled again where it stopped, nothing else replaced."""

import json
import shutil
from pathlib import Path

import fsspec

import raystudy.cli.pull
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.storage import Storage
from raystudy.study.results import StudyResults
from tests.cli.conftest import contents

NAME = "tiny-features"


def test_what_is_pulled_reads_alike_and_a_pull_that_was_cut_goes_on(storage, tmp_path, verb, monkeypatch):
    dest, before = tmp_path / "pulled", contents(storage)
    put, count = raystudy.cli.pull.import_run, [0]

    def cut(ledger: RunLedger, run: object) -> str:
        count[0] += 1
        if count[0] > 20:
            raise KeyboardInterrupt
        return put(ledger, run)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(raystudy.cli.pull, "import_run", cut)
        assert verb("pull", NAME, dest, "--storage", storage)[0] == 130
    assert len(list(dest.glob("runs/*/result.json"))) == 20
    num_runs = len(list(storage.glob("runs/*/result.json")))
    status, said, _ = verb("pull", NAME, dest, "--storage", storage)
    assert (status, f"{num_runs - 20} records of '{NAME}' copied, 20 were there, 0 are missing" in said) == (0, True)
    here, there = (StudyResults(Storage(at), Storage(at).study(NAME)) for at in (storage, dest))
    assert here.runs.equals(there.runs)
    assert here.scores.equals(there.scores)
    assert not {"shards", "built"} & {path.name for path in dest.iterdir()}
    (dest / "runs" / sorted(path.name for path in dest.glob("runs/*"))[0] / "result.json").write_text("{torn")
    status, _, errors = verb("pull", NAME, dest, "--storage", storage)
    assert status == 0, errors
    status, said, _ = verb("pull", NAME, dest, "--storage", storage)
    assert f"0 records of '{NAME}' copied, {num_runs} were there" in said
    after = contents(storage)
    assert {name: after[name] for name in before} == before


def test_another_study_of_the_name_or_the_same_folder_is_refused(storage, tmp_path, verb):
    dest = tmp_path / "dest"
    shutil.copytree(storage / "studies", dest / "studies")
    study = dest / "studies" / NAME / "study.json"
    value = json.loads(study.read_text())
    value["study"]["comparison"] = {"seed": 99}
    study.write_text(json.dumps(value))
    before = contents(dest)
    status, _, errors = verb("pull", NAME, dest, "--storage", storage)
    assert (status, "Name another folder" in errors) == (4, True)
    assert contents(dest) == before
    status, _, errors = verb("pull", NAME, storage, "--storage", storage)
    assert (status, "DEST must be another folder" in errors) == (2, True)
    status, _, errors = verb("pull", "no-such", dest, "--storage", storage)
    assert (status, "there must be a study in" in errors) == (3, True)


def test_a_study_that_went_on_in_dest_or_came_from_elsewhere_is_not_replaced(storage, tmp_path, verb, monkeypatch):
    source, dest, link = tmp_path / "source", tmp_path / "dest", tmp_path / "link"
    for name in ("studies", "runs"):
        shutil.copytree(storage / name, source / name)
    write = raystudy.cli.pull.write_bytes

    def cut(path: Path, content: bytes) -> bool:
        if path.name == "study.json":
            raise KeyboardInterrupt
        return write(path, content)

    def pulled_after_a_cut() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(raystudy.cli.pull, "write_bytes", cut)
            assert verb("pull", NAME, dest, "--storage", source)[0] == 130
        status, _, errors = verb("pull", NAME, dest, "--storage", source)
        assert status == 0, errors

    pulled_after_a_cut()
    study = source / "studies" / NAME / "study.json"
    value = json.loads(study.read_text())
    value["study"]["comparison"] = {"seed": 99}
    study.write_text(json.dumps(value))  # the source goes on, which may be pulled
    pulled_after_a_cut()
    link.symlink_to(source)
    status, _, errors = verb("pull", NAME, link, "--storage", source)
    assert (status, "DEST must be another folder" in errors) == (2, True)
    status, _, errors = verb("pull", NAME, dest, "--storage", storage)
    assert (status, f"was pulled from {source}, not from" in errors) == (4, True)
    (dest / "studies" / NAME / "frozen.json").write_text('{"went": "on"}')
    before = contents(dest)
    status, _, errors = verb("pull", NAME, dest, "--storage", source)
    assert (status, "frozen.json has changed since" in errors) == (4, True)
    assert contents(dest) == before


def test_verbs_read_a_study_by_name_from_a_remote_storage_and_pull_it(storage, tmp_path, verb):
    remote = f"memory://bucket/{tmp_path.name}"
    fsspec.filesystem("memory").put(str(storage), f"/bucket/{tmp_path.name}", recursive=True)
    for words in (
        ("status", NAME),
        ("export", NAME, "--out", tmp_path / "x.parquet"),
        ("pull", NAME, tmp_path / "copy"),
    ):
        status, said, errors = verb(*words, "--storage", remote)
        assert status == 0, said + errors
    here, there = (StudyResults(Storage(at), Storage(at).study(NAME)) for at in (storage, tmp_path / "copy"))
    assert here.runs.equals(there.runs)
