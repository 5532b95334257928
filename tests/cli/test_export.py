"""`raystudy export` and `import`: the same ids and the same comparison elsewhere, and nothing believed unchecked."""

import json
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from tests.cli.conftest import contents
from tests.conftest import FEATURES, TINY

NAME = "tiny-features"


@pytest.fixture(scope="module")
def exported(features_source, tmp_path_factory, cli):
    """tiny-features as one file."""
    path = tmp_path_factory.mktemp("exported") / "features.parquet"
    done = cli("export", NAME, "--storage", features_source, "--out", path)
    assert done.returncode == 0, done.stderr
    assert "147 records" in done.stdout
    assert "not in it: weights and shards" in done.stdout
    return path


def without_weights(folder):
    return {name: content for name, content in contents(folder).items() if not name.endswith(".safetensors")}


def test_an_imported_study_compares_digit_for_digit_and_wants_no_run(exported, features_source, tmp_path, verb):
    status, out, _ = verb("import", exported, "--storage", tmp_path / "new")
    assert status == 0
    assert "147 records imported, 0 were there already" in out
    _, before, _ = verb("compare", NAME, "--storage", features_source, "--json")
    status, after, _ = verb("compare", NAME, "--storage", tmp_path / "new", "--json")
    assert (status, after) == (0, before)
    shutil.copytree(features_source / "shards", tmp_path / "new" / "shards")
    _, plan, _ = verb("plan", FEATURES, "--storage", tmp_path / "new", "--json")
    assert json.loads(plan)["total"]["missing"] == 0
    assert verb("storage", "verify", "--storage", tmp_path / "new")[0] == 0


def test_of_a_record_nothing_is_lost_but_weights(tiny_storage, tmp_path, verb):
    source = shutil.copytree(tiny_storage, tmp_path / "source")
    run = sorted((source / "runs").iterdir())[0]
    (run / "attempts").mkdir(exist_ok=True)
    (run / "attempts" / "1.json").write_text(json.dumps({"cause": "planted", "run": "a | b"}, indent=1) + "\n")
    assert verb("export", "tiny", "--storage", source, "--out", tmp_path / "tiny.parquet")[0] == 0
    assert verb("import", tmp_path / "tiny.parquet", "--storage", tmp_path / "new")[0] == 0
    assert contents(tmp_path / "new" / "runs") == without_weights(source / "runs")
    (tmp_path / "new" / "shards").symlink_to(source / "shards")
    (tmp_path / "new" / "built").symlink_to(source / "built")
    _, plan, _ = verb("plan", TINY, "--storage", tmp_path / "new", "--json")
    assert json.loads(plan)["total"]["missing"] == 0
    _, plan, _ = verb(
        "plan", TINY, "--storage", tmp_path / "new", "--json",
        "--set", "validation.tests={source: {kind: embedded, domains: [tests]}}",
    )  # fmt: skip
    assert len(json.loads(plan)["to_retrain"]) == 70, "weights are not in an export"


def test_importing_twice_changes_nothing(exported, tmp_path, verb):
    verb("import", exported, "--storage", tmp_path / "new")
    before = contents(tmp_path / "new")
    status, out, _ = verb("import", exported, "--storage", tmp_path / "new")
    assert (status, "0 records imported, 147 were there already" in out) == (0, True)
    assert contents(tmp_path / "new") == before


def test_the_first_result_wins_and_a_differing_one_is_named(exported, storage, verb):
    run = sorted((storage / "runs").iterdir())[0]
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "num_tokens": 1}))
    before = contents(storage)
    status, out, _ = verb("import", exported, "--storage", storage)
    assert status == 0
    assert f"1 of those that were there hold another result, and stay as they are: {run.name}" in out
    assert contents(storage) == before


def test_a_torn_result_is_put_aside_and_imported(exported, storage, verb):
    run = sorted((storage / "runs").iterdir())[0]
    whole = (run / "result.json").read_bytes()
    (run / "result.json").write_text("{")
    status, out, told = verb("import", exported, "--storage", storage)
    assert (status, "1 records imported" in out, "torn or foreign" in told) == (0, True, True)
    assert (run / "result.json").read_bytes() == whole


def test_another_study_of_the_same_name_is_never_replaced(exported, storage, verb):
    path = storage / "studies" / NAME / "study.json"
    value = json.loads(path.read_text())
    value["study"]["comparison"]["resamples"] = 600
    path.write_text(json.dumps(value))
    before = contents(storage)
    status, _, told = verb("import", exported, "--storage", storage)
    assert (status, "study.json differs. Import into another storage" in told) == (4, True)
    assert contents(storage) == before


def change_result(**changes):
    def change(row, _):
        row["result"] = json.dumps({**json.loads(row["result"]), **changes})

    return change


def change_spec(row, _):
    result = json.loads(row["result"])
    result["spec"]["seed"] += 1
    row["result"] = json.dumps(result)


def rename_run(row, _):
    row["run_id"] = "../../elsewhere"


def name_a_path_as_shards(_, metadata):
    study = json.loads(metadata[b"raystudy.study"])
    study["inputs"]["shards"][next(iter(study["inputs"]["shards"]))] = "../../elsewhere"
    metadata[b"raystudy.study"] = json.dumps(study)


def leak(value):
    def change(_, metadata):
        study = json.loads(metadata[b"raystudy.study"])
        study["inputs"]["leaked"] = value
        metadata[b"raystudy.study"] = json.dumps(study)

    return change


def freeze(**changes):
    """A frozen rule of which something is of another type."""
    basis = {"fixed": "f", "shards": ["s"], "lrs": [0.1], "extend": 2, "seeds": [0], "validation": ["v"]}
    rule = {"lr": 0.1, "edge": None, "words": "", "basis": {**basis, **changes.pop("basis", {})}, **changes}
    frozen = {"format": "raystudy-frozen/1", "rules": {"r": rule}, "data": {}}
    return lambda _, metadata: metadata.update({b"raystudy.frozen": json.dumps(frozen).encode()})


def name_a_path_as_study(_, metadata):
    study = json.loads(metadata[b"raystudy.study"])
    study["study"]["name"] = "../elsewhere"
    metadata[b"raystudy.study"] = json.dumps(study)


FOREIGN = {
    "a newer export": (
        lambda _, m: m.update({b"raystudy.format": b"raystudy-export/2"}),
        "must be an export of format",
    ),
    "no export": (lambda _, m: m.clear(), "is of None"),
    "a changed spec": (change_spec, "must hold the result of run"),
    "another run's id": (rename_run, "must be of the run that its spec says"),
    "a newer result": (change_result(format="raystudy-run/2"), "must be a result of format raystudy-run/1"),
    "a failed run": (change_result(status="failed"), "must have a status of finished"),
    "another status": (lambda row, _: row.update(status="diverged"), "must be of the run that its spec says"),
    "no metrics": (change_result(metrics=None), "must hold metrics and seconds"),
    "no spec": (change_result(spec={}), "must hold a run's spec"),
    "a result that is no map": (lambda row, _: row.update(result="[]"), "record 1"),
    "not a number": (lambda row, _: row.update(result=row["result"].replace("1600", "NaN")), "NaN is no JSON"),
    "torn JSON": (lambda row, _: row.update(result="{"), "must be JSON"),
    "a foreign evaluation": (lambda row, _: row.update(evaluations=["{}"]), "an evaluation is wrong"),
    "a foreign curve": (lambda row, _: row.update(curve='{"step": "one"}'), "the curve must hold numbers"),
    "a path as shards": (name_a_path_as_shards, "must hold a digest for every recipe"),
    "a path as a study": (name_a_path_as_study, "must hold a resolved study"),
    "a path as frozen data": (
        lambda _, m: m.update({b"raystudy.frozen": b'{"data": {"x": {"shards": "../.."}}}'}),
        "must name frozen data by their digests",
    ),
    "leaks that are no map": (leak([1]), "must hold a resolved study"),
    "leaks of one recipe that are no map": (leak({"a": 0.5}), "must hold a resolved study"),
    "a leak that is no share": (leak({"a": {"x": "much"}}), "must hold a resolved study"),
    "a frozen rule of another form": (freeze(basis={"shards": 5}), "must hold what the study has frozen, but"),
    "a frozen rate that is no number": (freeze(lr="fast"), "lr: Input should be a valid number"),
    "a frozen rate of nothing": (freeze(lr=0), "a learning rate is not above 0"),
    "a foreign lock": (lambda _, m: m.update({b"raystudy.lock": b"{}"}), "must be a lock of format"),
}


@pytest.mark.parametrize("name", list(FOREIGN))
def test_a_file_that_is_not_what_it_says_is_refused_and_nothing_is_written(exported, tmp_path, verb, name):
    change, told = FOREIGN[name]
    table = parquet.read_table(exported)
    rows, metadata = table.to_pylist(), dict(table.schema.metadata)
    change(rows[0], metadata)
    changed = pyarrow.Table.from_pylist(rows, schema=table.schema.with_metadata(metadata))
    parquet.write_table(changed, tmp_path / "changed.parquet")
    status, _, said = verb("import", tmp_path / "changed.parquet", "--storage", tmp_path / "new")
    assert (status, told in said) == (4, True), said
    assert "defect" not in said
    assert not (tmp_path / "new").exists()


def test_what_a_study_has_frozen_travels_with_it(storage, tmp_path, verb):
    frozen = {"format": "raystudy-frozen/1", "rules": {}, "data": {}}
    path = ("studies", NAME, "frozen.json")
    storage.joinpath(*path).write_text(json.dumps(frozen))
    verb("export", NAME, "--storage", storage, "--out", tmp_path / "x.parquet")
    verb("import", tmp_path / "x.parquet", "--storage", tmp_path / "new")
    assert json.loads((tmp_path / "new").joinpath(*path).read_text()) == frozen


@pytest.fixture
def after_a_killed_launch(exported, tmp_path):
    """Whether an import goes well after a first launch that was killed with only that frozen; and what is frozen."""

    def imports(verb, frozen):
        path = tmp_path / "new" / "studies" / NAME / "frozen.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(frozen))
        status, _, told = verb("import", exported, "--storage", tmp_path / "new")
        assert (status == 4) == ("frozen.json differs. Import into another storage" in told), told
        assert (status == 0) == path.with_name("study.json").exists() == (tmp_path / "new" / "runs").exists()
        return status == 0, json.loads(path.read_text())

    return imports


def test_what_a_killed_first_launch_had_frozen_takes_nothing_from_an_import(
    after_a_killed_launch, features_source, verb
):
    whole = json.loads((features_source / "studies" / NAME / "frozen.json").read_text())
    assert whole["rules"]
    own = {"shards": "0" * 32, "vocabulary": 0, "words": "another's"}
    is_done, frozen = after_a_killed_launch(verb, {**whole, "rules": {}, "data": {"own": own}})
    assert (is_done, frozen) == (True, {**whole, "data": {**whole["data"], "own": own}})


def test_what_is_settled_otherwise_here_stops_an_import_before_anything_is_written(
    after_a_killed_launch, features_source, verb
):
    changed = json.loads((features_source / "studies" / NAME / "frozen.json").read_text())
    next(iter(changed["rules"].values()))["lr"] *= 2
    assert after_a_killed_launch(verb, changed) == (False, changed)


def test_torn_and_foreign_files_are_told(exported, tmp_path, verb):
    (tmp_path / "torn.parquet").write_bytes(exported.read_bytes()[:-100])
    (tmp_path / "text.parquet").write_text("recipe,score\n")
    twice = parquet.read_table(exported)
    parquet.write_table(pyarrow.concat_tables([twice, twice]), tmp_path / "twice.parquet")
    parquet.write_table(twice.drop_columns(["curve"]), tmp_path / "lacking.parquet")
    for name, said in {
        "torn": "is torn or foreign",
        "text": "is torn or foreign",
        "nothing": "cannot be read",
        "twice": "every run must occur once",
        "lacking": "but lacks curve",
    }.items():
        status, _, told = verb("import", tmp_path / f"{name}.parquet", "--storage", tmp_path / "new")
        assert (status, said in told) == (4, True), told
    assert verb("import", tmp_path, "--storage", tmp_path / "new")[0] == 4
    assert not (tmp_path / "new").exists()


def test_an_export_that_cannot_be_written_is_told(features_source, tmp_path, verb):
    status, _, told = verb("export", NAME, "--storage", features_source, "--out", tmp_path / "no" / "x.parquet")
    assert (status, "--out must name a file that can be written" in told) == (2, True)
    assert verb("export", "nothing", "--storage", features_source)[0] == 3
