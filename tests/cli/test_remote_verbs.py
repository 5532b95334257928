"""Every verb on a remote storage whose calls fail one in five: numbers as on a local storage, and no secret shows.

Servers of S3 and Google Cloud Storage behind proxies that fail calls; see tests/object_store.py, tests/google_store.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from raystudy.artifacts.files import remove_file, write_bytes
from raystudy.artifacts.kept_tables import kept_tables
from raystudy.artifacts.remote_files import below, read
from raystudy.artifacts.storage import open_storage
from raystudy.cli import submit, track
from raystudy.cli.main import main
from raystudy.errors import StorageError
from raystudy.execute import tracking
from raystudy.specs.tracking import MlflowTracker, Tracking
from tests.execute.test_trackers import FakeTracker
from tests.faults.trials import without_seconds
from tests.object_store import ENVIRONMENT, SECRET

STUDY = """
format: raystudy-study/1
name: afar
recipes:
  - {name: a, kind: synthetic, dimension: corpus, weights: {x: 1, y: 3}}
  - {name: b, kind: synthetic, dimension: corpus, weights: {x: 3, y: 1}}
synthetic: {inputs: 8, domains: {x: {exponent: 1.2}, y: {exponent: 1.0, teacher_shift: 0.5}}}
validation: {x: {source: {kind: synthetic, domain: x}}}
models:
  proxy: {kind: random-features, features: 3, training: {steps: 5}}
  target: {kind: random-features, features: 4, training: {steps: 9}}
protocols:
  truth: {kind: tuned, model: target, space: {lr: {grid: [0.01, 0.1, 1.0]}}, seeds: [0]}
  reduced: {kind: reduced-lr, model: proxy, lr: 0.01, seeds: [0]}
truth: truth
"""


def comparison(out: str) -> object:
    return without_seconds(json.loads(out))


def test_a_study_on_s3_or_gs_whose_calls_fail_is_run_read_and_carried_away_as_a_local_one(
    store, store_uri, tmp_path, capfd, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYSTUDY_STORAGE", store_uri)
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    Path("afar.yaml").write_text(STUDY)

    def call(*arguments: object) -> str:
        """A verb in this process, which must end well; what it printed."""
        assert main(list(map(str, arguments))) == 0, capfd.readouterr().err
        seen.append("".join(found := capfd.readouterr()))
        return found.out

    seen: list[str] = []
    store.faults.failing, store.faults.lost_answers = 0.15, 0.05
    call("run", "afar.yaml", "--local", "--workers", "0")
    store.faults.heal()
    call("run", "afar.yaml", "--local", "--workers", "0", "--storage", tmp_path / "local")
    assert json.loads(call("status", "afar", "--json"))["missing"] == 0
    here = comparison(call("compare", "afar", "--json"))
    assert here == comparison(call("compare", "afar", "--json", "--storage", tmp_path / "local"))
    assert f"report: {store_uri}/studies/afar/report.html" in call("report", "afar")
    call("plan", "afar.yaml")
    call("export", "afar", "--out", "carried.parquet")
    call("import", "carried.parquet", "--storage", tmp_path / "carried")
    assert here == comparison(call("compare", "afar", "--json", "--storage", tmp_path / "carried"))

    foreign = open_storage(store_uri).root / "runs" / "notes.txt"
    foreign.write_text("mine")
    used = json.loads(call("storage", "usage", "--json"))
    assert used["storage"] == store_uri
    assert used["unused"]["num_runs"] == 0
    assert used["kinds"]["foreign"]["count"] == 1
    seen += _of_the_other_verbs(call, monkeypatch)
    assert ": no problems" in call("storage", "verify")
    (open_storage(store_uri).root / "studies" / "afar" / "study.json").unlink()
    assert main(["storage", "prune", "--yes"]) == StorageError.exit_status
    assert "nothing was removed" in capfd.readouterr().err

    assert not [said for said in seen if "Traceback" in said]
    left = below(open_storage(store_uri).root)
    assert not [name for name in left if ".writing-" in name], "nothing half-written lies there"
    assert (tmp_path / "cache" / "submitted").is_dir()
    texts = [*seen, *(path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file())]
    texts += [(read(open_storage(store_uri).root / name) or b"").decode(errors="replace") for name in left]
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert not [text for text in texts if ENVIRONMENT[name] in text], name


def _of_the_other_verbs(call: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Call those that carry runs elsewhere or tell of them; what a tracker and a job server were told.

    Tracker and job server are fakes. The value that `--env` sends goes to the job server, as it must, and nowhere else.
    """
    more = ("--set", "name=wave", "--set", "protocols.reduced.seeds=[0, 1]")
    call("lock", "afar.yaml", *more)
    call("plan", "afar.yaml", *more, "--emit", "jsonl", "--out", "wave")
    (tasks,) = Path("wave").glob("*.jsonl")
    call("run-task", tasks, "--index", 0, "--here")
    assert "0 are missing" in call("pull", "afar", "pulled")

    tracker, opened = FakeTracker(), track.open_results

    def tracked(options: object) -> object:
        results = opened(options)
        results.study = results.study.model_copy(update={"track": Tracking(mlflow=MlflowTracker())})
        return results

    monkeypatch.setattr(track, "open_results", tracked)
    monkeypatch.setattr(tracking, "MlflowConnection", lambda *_: tracker)
    call("track", "afar")
    assert len(tracker.runs) > 5

    sent: list[tuple[str, str, dict[str, object]]] = []
    server = SimpleNamespace(
        url="http://h:1", notes=(), jobs=list, submit=lambda *what, **more: sent.append((*what, more))
    )
    monkeypatch.setattr(submit, "open_job_server", lambda _: server)
    more = ("--set", "name=later", "--set", "protocols.reduced.seeds=[0, 1, 2]")
    call("submit", "afar.yaml", *more, "--env", "AWS_SECRET_ACCESS_KEY")
    ((_, _, options),) = sent
    environment = options["runtime_env"].pop("env_vars")
    assert environment.pop("AWS_SECRET_ACCESS_KEY") == SECRET
    return [repr(tracker.runs), repr(sent), repr(environment)]


def test_a_location_with_a_secret_is_refused_without_repeating_it(capfd, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY + f"storage: s3://AKIA:{SECRET}@bucket/x\n")
    for arguments in (["run", str(study), "--local"], ["status", "x", "--storage", f"s3://k:{SECRET}@bucket"]):
        assert main(arguments) in (2, 3)
        told = capfd.readouterr()
        assert "must hold a bucket and a prefix and no credentials" in told.err
        assert SECRET not in told.err + told.out
    assert [path.name for path in Path(tmp_path).iterdir()] == ["study.yaml"]


@pytest.mark.usefixtures("store")
def test_prune_on_s3_and_gs_removes_what_no_study_uses(store_uri, capfd):
    storage = open_storage(store_uri)
    for name in ("shards/" + "a" * 32 + "/manifest.json", "runs/" + "b" * 32 + "/spec.json", "runs/notes.txt"):
        (storage.root / name).write_text("{}")
    assert main(["storage", "prune", "--yes", "--storage", store_uri]) == 0
    assert "removed 2 items" in capfd.readouterr().out
    assert list(below(storage.root)) == ["runs/notes.txt"]


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_study_by_name_reads_its_tables_as_they_were_run_wherever_the_files_are_now(s3_uri, tmp_path, capsys, kind):
    """As after a job: the folder that it was given is gone. A copy is read, is pulled along and is verified."""
    job, storage = tmp_path / "job", s3_uri if kind == "s3" else str(tmp_path / "storage")
    job.mkdir()
    (job / "t.csv").write_text("recipe,score\na,2.5\nb,3.5\n")
    given = "  reduced: {kind: reduced-lr"
    (job / "study.yaml").write_text(STUDY.replace(given, "  given: {kind: table, file: t.csv}\n" + given, 1))
    assert main(["run", str(job / "study.yaml"), "--storage", storage, "--local", "--workers", "0"]) == 0
    assert main(["lock", str(job / "study.yaml"), "--storage", storage]) == 0
    capsys.readouterr()
    assert main(["compare", "afar", "--storage", storage, "--json"]) == 0
    before = comparison(capsys.readouterr().out)
    shutil.rmtree(job)
    copies = kept_tables(open_storage(storage).study("afar").path)
    assert [copy.suffix for copy in copies] == [".csv"]
    pulled = tmp_path / "pulled"
    assert main(["pull", "afar", str(pulled), "--storage", storage]) == 0
    for place in (storage, pulled):
        capsys.readouterr()
        assert main(["compare", "afar", "--storage", str(place), "--json"]) == 0
        assert comparison(capsys.readouterr().out) == before
        assert main(["report", "afar", "--storage", str(place)]) == 0
        assert main(["storage", "verify", "--storage", str(place)]) == 0
    write_bytes(copies[0], b"recipe,score\na,9\nb,3.5\n")
    assert main(["storage", "verify", "--storage", storage]) == 3
    assert "must have the SHA-256 that it is called by" in capsys.readouterr().out
    remove_file(copies[0])
    assert main(["compare", "afar", "--storage", storage]) == 4
    assert "t.csv must be a CSV, TSV or Parquet file, but: No such file" in capsys.readouterr().err
