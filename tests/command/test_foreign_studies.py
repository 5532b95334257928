"""A whole study whose trainer and data raystudy never sees: plan, waves, edges, compare, report, export, Ray."""

import json
import shutil

import pytest
from pyarrow import parquet

from raystudy.artifacts.storage import Storage
from raystudy.errors import SpecError
from raystudy.specs.load import load_study
from raystudy.study.results import load
from tests.command.studies import external_study, read_study, write_study


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, cli):
    """The study's file, after it has run on the storage beside it."""
    study = external_study(tmp_path_factory.mktemp("foreign"), environment={"ACCESS": "hush-1"})
    done = cli("run", study, "--storage", study.parent / "storage", "--local")
    assert done.returncode == 0, done.stderr
    return study


def test_the_tuned_truth_and_the_standard_rate_are_found_and_compared(foreign, cli):
    storage = foreign.parent / "storage"
    told = cli("compare", foreign, "--storage", storage)
    assert told.returncode == 0, told.stderr
    assert "validation text was not looked for in the recipes" in told.stdout
    results = load(storage / "studies" / "foreign")
    assert set(results.runs["status"]) == {"finished"}
    large = results.runs[results.runs["model"] == "large"]
    assert len(large) == 3 * 3 * 2, "the best rate is inside the grid, which does not go on"
    (entry,) = [entry for entry in results.comparison_json["comparisons"] if entry["metric"] == "loss"]
    assert (entry["lr"], entry["spearman"]["value"]) == (0.01, 1.0)
    tokens = {"standard": 10 * 4 * 64, "truth": 18 * 6 * 64}
    assert entry["cost"]["tokens"] == tokens["standard"]
    assert entry["cost"]["flops"] == 6 * 1000 * tokens["standard"]
    assert {row["protocol"]: row["flops"] for row in plan(foreign, cli)["rows"]}["truth"] == 40_000 * tokens["truth"]
    assert len(results.curves) == 10 * 4 + 18 * 6


def plan(study, cli):
    told = cli("plan", study, "--storage", study.parent / "storage", "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_a_finished_study_has_nothing_to_do_a_page_and_a_whole_storage(foreign, cli):
    storage = foreign.parent / "storage"
    again = cli("run", foreign, "--storage", storage, "--local")
    assert "all 28 wanted runs are done; nothing to do" in again.stdout
    assert cli("report", foreign, "--storage", storage).returncode == 0
    (page,) = (storage / "studies" / "foreign").glob("*.html")
    assert "ACCESS: (masked)" in page.read_text()
    assert "hush-1" not in page.read_text()
    assert "no problems" in cli("storage", "verify", "--storage", storage).stdout
    used = json.loads(cli("storage", "usage", "--storage", storage, "--json").stdout)
    assert (used["unused"]["num_runs"], used["unused"]["num_shards"]) == (0, 0)


def test_its_records_go_elsewhere_as_one_file(foreign, cli, tmp_path):
    file, there = tmp_path / "foreign.parquet", tmp_path / "there"
    assert cli("export", "foreign", "--storage", foreign.parent / "storage", "--out", file).returncode == 0
    metadata = parquet.read_metadata(file).metadata
    assert b"ACCESS" in metadata[b"raystudy.study"]
    assert b"ACCESS: (masked)" in metadata[b"raystudy.study_text"]
    assert not any(b"hush-1" in value for value in metadata.values())
    taken = cli("import", file, "--storage", there)
    assert taken.returncode == 0, taken.stderr
    assert cli("compare", "foreign", "--storage", there).returncode == 0
    again = cli("import", file, "--storage", foreign.parent / "storage")
    assert "0 records imported, 28 were there already" in again.stdout, again.stderr


def changed(foreign, tmp_path, change):
    """A study like `foreign`, changed, beside a copy of its storage."""
    shutil.copytree(foreign.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "study.yaml"
    study = read_study(path)
    change(study)
    write_study(path, study)
    return path


def test_another_version_of_trainer_or_data_is_another_run_and_how_it_is_called_is_not(foreign, tmp_path, cli):
    def change(study):
        study["recipes"][0] |= {"name": "renamed", "path": "s3://elsewhere/clean", "description": "moved"}
        study["protocols"]["standard"]["lr"]["baseline"] = "renamed"
        for model in study["models"].values():
            model["engine"] = {**model["engine"], "command": ["other", "{out}"], "environment": {"A": "b"}}
        study["models"]["small"]["engine"]["version"] = "stub-2"
        study["recipes"][2]["version"] = "noisy@2"

    rows = {row["protocol"]: row["done"] for row in plan(changed(foreign, tmp_path, change), cli)["rows"]}
    assert rows == {"truth": 12, "standard": 0}


def test_a_validation_set_more_starts_the_trainers_again_and_trains_nothing_anew(foreign, tmp_path, cli):
    def change(study):
        study["validation"]["news"] = {"source": {"kind": "external", "version": "news@1"}}
        for model in study["models"].values():
            model["engine"] = {**model["engine"], "environment": {"STUB": "again"}}

    path = changed(foreign, tmp_path, change)
    before = {run.name: (run / "result.json").read_bytes() for run in (path.parent / "storage" / "runs").iterdir()}
    told = cli("plan", path, "--storage", path.parent / "storage")
    assert "28 of the missing runs are trained" in told.stdout
    assert "training again" not in told.stdout
    done = cli("run", path, "--storage", path.parent / "storage", "--local", "--workers", "0", "--max-runs", "4")
    assert done.returncode == 8, done.stderr
    runs = Storage(path.parent / "storage").runs
    assert {run_id: (runs.folder(run_id) / "result.json").read_bytes() for run_id in before} == before
    assert sum((runs.folder(run_id) / "eval").exists() for run_id in before) == 4


def test_a_step_asked_for_later_starts_the_trainers_again_and_is_compared(foreign, tmp_path, cli):
    def change(study):
        early = {"kind": "standard-lr", "model": "small", "lr": 0.01, "seeds": [0, 1], "at_steps": [2, 3]}
        study["protocols"]["early"] = early

    path = changed(foreign, tmp_path, change)
    done = cli("run", path, "--storage", path.parent / "storage", "--local", "--workers", "0")
    assert "0 runs made, 6 evaluated" in done.stdout, done.stderr
    assert cli("compare", path, "--storage", path.parent / "storage").returncode == 0
    entries = load(path.parent / "storage" / "studies" / "foreign").comparison_json["comparisons"]
    means = {entry["candidate"]: entry["mean_loss"] for entry in entries if entry["metric"] == "loss"}
    assert means["early@step2"] - means["standard"] == pytest.approx(1 / 2 - 1 / 4)
    assert means["early@step3"] - means["standard"] == pytest.approx(1 / 3 - 1 / 4)


def test_data_under_one_version_at_another_path_are_told_of(foreign, tmp_path, cli):
    path = changed(foreign, tmp_path, lambda study: study["recipes"][0].update(path="/elsewhere"))
    told = cli("run", path, "--storage", path.parent / "storage", "--local", "--workers", "0")
    assert told.returncode == 0
    assert "are at '/elsewhere', and were at '/data/clean' first; their version 'clean@1' says" in told.stderr


def test_text_that_raystudy_builds_and_data_that_it_never_sees_go_in_one_study(tmp_path, cli):
    path = external_study(tmp_path)
    study, words = read_study(path), ["the", "old", "tree", "by", "the", "river", "sees", "a", "small", "light"]
    for name in ("own", "kept"):
        lines = [" ".join(f"{name}{word}{line * place}" for place, word in enumerate(words)) for line in range(60)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(lines))
    source = {"kind": "text", "files": ["own.txt"]}
    text = {"name": "clean", "kind": "text", "dimension": "corpus", "sources": {"own": source}}
    study["recipes"] = [text, study["recipes"][1]]
    study["validation"] = {"held": {"source": {**source, "files": ["kept.txt"]}}, "wiki": study["validation"]["wiki"]}
    study["protocols"]["truth"] |= {"space": {"lr": {"grid": [0.01], "extend": 0}}, "seeds": [0]}
    study["protocols"]["standard"] |= {"lr": 0.01, "seeds": [0]}
    write_study(path, study)
    assert cli("check", path).returncode == 0
    done = cli("run", path, "--storage", tmp_path / "storage", "--local", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "looked for where raystudy holds it, and not in external data" in done.stderr
    rows = {}
    for run_id in Storage(tmp_path / "storage").runs.started():
        result = Storage(tmp_path / "storage").runs.read(run_id).result
        names = sorted(f"{row['name']} {row['dataset_name']}" for row in result["metrics"])
        rows[bool(result["epochs_per_source"])] = names
    sets = ["loss held", "loss wiki"]
    assert rows == {
        True: ["bits-per-byte held", *sets, "unigram-loss held"],
        False: ["bits-per-byte held", *sets],
    }, "sizes and word counts are known of text alone"
    again = cli("run", path, "--storage", tmp_path / "storage", "--local", "--resolve-again")
    assert "nothing changes" in again.stderr
    assert "nothing to do" in again.stdout
    assert cli("compare", path, "--storage", tmp_path / "storage").returncode == 0


@pytest.mark.ray
def test_under_ray_tune_the_same_runs_are_made(tmp_path, cli, ray_cluster):
    path = external_study(tmp_path)
    study = read_study(path)
    study["recipes"] = study["recipes"][:2]
    study["protocols"]["truth"] |= {"space": {"lr": {"grid": [0.01], "extend": 0}}, "seeds": [0]}
    study["protocols"]["standard"] |= {"lr": 0.01, "seeds": [0]}
    write_study(path, study)
    done = cli("run", path, "--storage", tmp_path / "storage", **ray_cluster)
    assert done.returncode == 0, done.stderr
    assert len(Storage(tmp_path / "storage").runs.started()) == 4


def test_a_study_of_commands_alone_needs_no_torch(tmp_path):
    assert not load_study(external_study(tmp_path)).spec.needs_torch


def set_engine(study, **engine):
    study["models"]["small"]["engine"] = {**study["models"]["small"]["engine"], **engine}


TUNED = {"kind": "tuned", "model": "small", "space": {"lr": {"grid": [0.01]}}}
PROBLEMS = {
    "unknown placeholder": (
        lambda study: set_engine(study, command=["train", "--lr", "{learning_rate}", "{spek}"]),
        ["braces must hold a placeholder, but got {learning_rate}", "models.small.engine"],
    ),
    "misspelt placeholder": (lambda study: set_engine(study, command=["{spek}"]), ["Did you mean {spec}?"]),
    "lone brace": (lambda study: set_engine(study, command=['{"a": 1']), ["Write {{ and }} for braces"]),
    "both": (lambda study: set_engine(study, callable="a:b"), ["exactly one of command, callable", "got both"]),
    "callable": (
        lambda study: set_engine(study, command=None, callable="train.py"),
        ["callable must be `package.module:function`, but got 'train.py'"],
    ),
    "blank version": (lambda study: set_engine(study, version=" "), ["version must not be blank"]),
    "number in command": (lambda study: set_engine(study, command=["train", 3]), ["must be text, but got 3"]),
    "engine torch": (
        lambda study: study["models"]["small"].update(engine="torch"),
        ["models.small.engine"],
    ),
    "decoder of torch": (
        lambda study: study["models"].update(
            own={"kind": "decoder", "layers": 1, "width": 8, "heads": 1, "context": 8}
        ),
        ["external data are read by commands alone, but model 'own' has engine 'torch'"],
    ),
    "one version twice": (
        lambda study: study["recipes"][1].update(version="clean@1"),
        ["different data must have different versions, but 'clean' and 'mixed' are both 'clean@1'"],
    ),
    "likeness": (
        lambda study: study["protocols"].update(like={"kind": "likeness"}),
        ["likeness counts text that raystudy holds"],
    ),
    "read-out": (
        lambda study: study["protocols"].update(mean={**TUNED, "readout": "average"}),
        ["readout is for models that raystudy trains, but 'small' is trained by a command"],
    ),
    "branch": (
        lambda study: study["protocols"].update(cut={**TUNED, "branch": {"at": 2, "steps": 2}}),
        ["branch is for models that raystudy trains"],
    ),
    "probe": (
        lambda study: study["protocols"].update(probe={"kind": "sharpness", "model": "small"}),
        ["a probe reads weights of raystudy's own"],
    ),
    "weighted metric": (
        lambda study: study["comparison"].update(primary_metric="loss-token-weighted"),
        ["'loss-token-weighted' needs the sizes of all validation sets, but 'held' is external"],
    ),
    "step beyond": (
        lambda study: study["protocols"].update(late={**TUNED, "step": 9}),
        ["protocols.late.step"],
    ),
    "settings": (
        lambda study: study["models"]["small"].update(settings={"a": float("inf")}),
        ["has no place in an identity"],
    ),
    "documents": (
        lambda study: study["validation"]["held"].update(max_documents=3),
        ["`max_documents` belongs to text, but the source is external"],
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_does_not_fit_is_refused_when_the_study_is_checked(tmp_path, problem):
    path = external_study(tmp_path)
    study = read_study(path)
    change, words = PROBLEMS[problem]
    change(study)
    write_study(path, study)
    with pytest.raises(SpecError) as refused:
        load_study(path)
    for word in words:
        assert word in str(refused.value)
