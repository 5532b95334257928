"""Records pulled to a folder: a storage of its own, pulled again where it stopped, nothing else replaced."""

import json
import shutil

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
