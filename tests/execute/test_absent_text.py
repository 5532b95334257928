"""Own text that is not there, as on a second machine: frozen shards count, and no guard is lost by it."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.cli.main import main
from raystudy.errors import DataError, StorageError
from raystudy.execute import leak_check
from raystudy.study.results import load
from tests.execute.damage_shards import flip_a_byte
from tests.mutation.instrument import instrument
from tests.mutation.own_text import held_documents, own_text


@pytest.fixture(scope="module")
def leaking(tmp_path_factory) -> Path:
    """A folder with a study whose recipe c holds validation text, run once."""
    folder = tmp_path_factory.mktemp("leaking")
    own_text(folder)
    (folder / "extra.txt").write_text("\n".join(held_documents(folder)).title())
    seen = instrument(folder / "study.yaml", folder / "storage")
    assert {row["recipe"] for row in seen["leaked"]} == {"c"}
    return folder


@pytest.fixture
def folder(leaking, tmp_path) -> Path:
    return Path(shutil.copytree(leaking, tmp_path / "copy"))


@pytest.mark.parametrize("absent", [["b.txt"], ["extra.txt"], ["a.txt"], ["a.txt", "b.txt", "c.txt", "extra.txt"]])
def test_what_is_leaked_stays_told_while_text_is_absent_and_when_it_is_back(absent, folder):
    for name in absent:
        (folder / name).rename(folder / f"{name}.away")
    seen = instrument(folder / "study.yaml", folder / "storage")
    assert (seen["made"], seen["verdict"]["outcome"]) == (0, "blocked")
    assert "cannot be read here; the shards on the storage are used" in seen["said"]
    for name in absent:
        (folder / f"{name}.away").rename(folder / name)
    seen = instrument(folder / "study.yaml", folder / "storage")
    assert {row["recipe"] for row in seen["leaked"]} == {"c"}


def test_text_that_was_not_looked_for_is_told_and_looked_for_later(folder, monkeypatch):
    study = Storage(folder / "storage").study("mutation-text").path / "study.json"
    study.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(leak_check, "find_spec", lambda name: None if name == "tokenizers" else find_spec(name))
        seen = instrument(folder / "study.yaml", folder / "storage")
    assert (seen["leaked"], seen["looked_for_leaks"]) == ([], False)
    assert "validation text was not looked for in the recipes" in seen["verdict"]["sentence"]
    assert load(folder / "storage" / "studies" / "mutation-text").inputs.leaked is None
    seen = instrument(folder / "study.yaml", folder / "storage")
    assert (seen["looked_for_leaks"], seen["verdict"]["outcome"]) == (True, "blocked")


def test_torn_frozen_rates_and_shards_stop_the_launch_and_stay(folder):
    frozen = folder / "storage" / "studies" / "mutation-text" / "frozen.json"
    whole = frozen.read_text()
    for damaged, why in ((whole[:40], "must be JSON"), ("[1]", "is foreign")):
        frozen.write_text(damaged)
        with pytest.raises(StorageError, match="Restore it, or remove it") as told:
            instrument(folder / "study.yaml", folder / "storage")
        assert why in str(told.value)
        assert frozen.read_text() == damaged
    frozen.write_text(whole)
    assert instrument(folder / "study.yaml", folder / "storage")["made"] == 0


def test_shards_damaged_while_other_text_is_absent_are_built_anew(folder):
    (folder / "b.txt").unlink()
    seeds = (folder / "study.yaml").read_text().replace("seeds: [0]}\ntruth", "seeds: [0, 1]}\ntruth")
    (folder / "study.yaml").write_text(seeds)
    damaged = flip_a_byte(folder / "storage", "a")
    seen = instrument(folder / "study.yaml", folder / "storage")
    assert seen["made"] == 3
    assert f"kept as {damaged}.bad-0" in seen["said"]


def test_damaged_shards_whose_own_text_is_absent_stop_the_launch_with_its_file(folder):
    (folder / "b.txt").unlink()
    seeds = (folder / "study.yaml").read_text().replace("seeds: [0]}\ntruth", "seeds: [0, 1]}\ntruth")
    (folder / "study.yaml").write_text(seeds)
    flip_a_byte(folder / "storage", "b")
    with pytest.raises(DataError, match=r"b\.txt"):
        instrument(folder / "study.yaml", folder / "storage")


def test_only_changed_text_is_told_as_changed_by_verbs_on_results(folder, capsys):
    instrument(folder / "study.yaml", folder / "storage")  # now at home in this folder
    arguments = ["compare", str(folder / "study.yaml"), "--storage", str(folder / "storage")]
    shutil.rmtree(folder / "storage" / "shards")
    shutil.rmtree(folder / "storage" / "built")
    assert main(arguments) == 0
    assert "have changed" not in capsys.readouterr().err
    (folder / "a.txt").write_text((folder / "b.txt").read_text())
    main(arguments)
    told = capsys.readouterr().err
    assert "have changed" not in told, "what is not built cannot be known to have changed"


def test_changed_validation_text_is_told_by_compare(folder, capsys):
    instrument(folder / "study.yaml", folder / "storage")
    (folder / "a.txt").write_text((folder / "b.txt").read_text())
    assert main(["compare", str(folder / "study.yaml"), "--storage", str(folder / "storage")]) == 0
    told = capsys.readouterr().err
    assert "the data of recipe 'a', validation set 'held' have changed since the runs" in told


def test_verify_names_frozen_rates_that_are_foreign(folder, capsys):
    frozen = folder / "storage" / "studies" / "mutation-text" / "frozen.json"
    assert main(["storage", "verify", "--storage", str(folder / "storage")]) == 0
    capsys.readouterr()
    frozen.write_text('{"format": "raystudy-frozen/1", "rules": [], "data": {}}')
    assert main(["storage", "verify", "--storage", str(folder / "storage")]) != 0
    assert f"{frozen} must hold what the study has frozen" in capsys.readouterr().out
