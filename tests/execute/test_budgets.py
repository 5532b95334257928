"""Step budgets, branches and read-outs in the ordinary flow: study file, waves, records, scores, comparison."""

import io
import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

import raystudy.train.run
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import branch_path, read_weights, weights_path
from raystudy.cli.main import main
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.execute.tasks import make_tasks
from raystudy.execute.work import Task
from raystudy.specs.load import load_study
from raystudy.specs.reading import Average, Ema
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave
from tests.mutation.own_text import own_text

CONSTANT = """
training: {steps: 20, batch_tokens: 64, schedule: {kind: constant, warmup: 0.1}}
"""
SHORT = "{kind: reduced-lr, model: proxy, lr: 1e-3, seeds: [0]"
PROTOCOLS = f"""
  plain: {SHORT}}}
  steps: {SHORT}, at_steps: [5, 10]}}
  averaged: {SHORT}, readout: average}}
  smoothed: {SHORT}, step: 10, readout: {{kind: ema, half_life: 3}}}}
  decayed: {SHORT}, branch: {{at: 10, steps: 4}}}}
"""


def the_study(folder: Path, protocols: str = PROTOCOLS, training: str = CONSTANT) -> Path:
    path = own_text(folder)
    text = path.read_text().replace("training: {steps: 3, batch_tokens: 64}", training.strip())
    text = text.replace("grid: [1e-3, 1e-2]", "grid: [1e-3, 1e-2], extend: 0")
    start, end = text.index("  reduced:"), text.index("truth: truth")
    path.write_text(text[:start] + protocols.strip("\n") + "\n" + text[end:])
    return path


def launch(path: Path, storage: Path) -> Launch:
    return run_study(load_study(path), Storage(storage), InlineExecutor, Progress(io.StringIO()))


def results_of(path: Path, storage: Path) -> StudyResults:
    found = Storage(storage)
    return StudyResults(found, found.study(load_study(path).spec.name))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder with the study, run on its storage; not to be changed."""
    folder = tmp_path_factory.mktemp("budgets")
    path = the_study(folder)
    assert launch(path, folder / "storage").is_complete
    return folder


def entries_of(results: StudyResults) -> dict[str, dict]:
    return {e["candidate"]: e for e in results.comparison_json["comparisons"] if e["metric"] == "loss"}


def test_every_budget_branch_and_read_out_is_a_candidate_of_the_same_runs(source):
    results = results_of(source / "study.yaml", source / "storage")
    entries = entries_of(results)
    assert list(entries) == ["plain", "steps@step5", "steps@step10", "averaged", "smoothed", "decayed"]
    assert [entry["step"] for entry in entries.values()] == [None, 5, 10, None, 10, None]
    assert [entry["readout"] and entry["readout"]["kind"] for entry in entries.values()] == [
        None, None, None, "average", "ema", None,
    ]  # fmt: skip
    assert entries["decayed"]["branch"] == {"at": 10, "steps": 4, "decay_shape": "linear"}
    means = [entry["mean_loss"] for entry in entries.values()]
    assert len(set(means)) == len(means), "each scores other weights"
    assert results.comparison_json["missing"] == []
    assert results.comparison_json["contradictions"] == []
    assert not any(entry["guards"]["unpaired"] for entry in entries.values())
    # 3 recipes: 2 learning rates of the truth, one of them that of the candidates, and the branches
    assert len(make_wave(results.state).wanted) == 9
    assert set(results.comparison["candidate"]) == set(entries)
    assert set(results.comparison["step"].dropna()) == {5, 10}
    read = results.readings
    assert len(read) == 3 * 4, "two steps, an average at the end, and an EMA"
    at_five = read[(read["step"] == 5) & (read["readout"] == "last")]["loss"].mean()
    assert at_five == pytest.approx(entries["steps@step5"]["mean_loss"])


def test_a_candidate_costs_the_steps_up_to_its_score_and_a_branch_its_parents_too(source):
    entries = entries_of(results_of(source / "study.yaml", source / "storage"))
    tokens = {name: entry["cost"]["tokens"] / (3 * 64) for name, entry in entries.items()}
    assert tokens == {
        "plain": 20, "steps@step5": 5, "steps@step10": 10, "averaged": 20, "smoothed": 10, "decayed": 10 + 4,
    }  # fmt: skip
    assert entries["decayed"]["cost"]["num_runs"] == 6
    flops = {name: entry["cost"]["flops"] / entries["plain"]["cost"]["flops"] for name, entry in entries.items()}
    assert flops["steps@step5"] == pytest.approx(0.25)
    assert flops["decayed"] == pytest.approx(0.7)


def test_a_step_score_is_that_of_a_study_of_so_many_steps(source, tmp_path):
    short = "training: {steps: 10, batch_tokens: 64, schedule: {kind: constant, warmup: 0.2}}"
    path = the_study(tmp_path, f"  plain: {SHORT}}}", short)
    assert launch(path, tmp_path / "storage").is_complete
    alone = results_of(path, tmp_path / "storage").scores.query("protocol == 'plain'")
    long = results_of(source / "study.yaml", source / "storage").scores.query("protocol == 'steps@step10'")
    assert alone["score"].tolist() == long["score"].tolist()


def test_branches_wait_for_their_parents_and_start_from_what_these_kept(source, tmp_path):
    path = the_study(tmp_path)
    results = results_of(source / "study.yaml", source / "storage")
    empty = results.state.with_records({})
    wave = make_wave(empty)
    assert [(name, item.num_runs) for name, item in wave.waiting] == [("decayed", 3)]
    assert len(wave.todo) == 6
    assert path.exists()
    branches = [run for run in make_wave(results.state).wanted.values() if run.parent is not None]
    for branch in branches:
        record = results.state.record(branch)
        assert record.result["replayed_steps"] == 0
        assert record.result["num_tokens"] == 4 * 64
        parent = results.storage.runs.folder(branch.parent.run_id)
        assert branch_path(parent, 10).exists()
        assert weights_path(parent, 5).exists()
        assert weights_path(parent, 20, Average(kind="average")).exists()
        assert weights_path(parent, 10, Ema(kind="ema", half_life=3)).exists()
        assert str(branch).endswith("4 steps from step 10")


@pytest.fixture
def copied(source, tmp_path) -> Path:
    """A copy of the finished study, to be changed."""
    shutil.copytree(source, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_is_asked_travels_with_a_task_to_any_worker(source):
    state = results_of(source / "study.yaml", source / "storage").state
    wanted = list(make_wave(state).wanted.values())
    tasks = make_tasks(wanted, "storage", {"digest": "held"}, state.study.resources)
    sent = [Task(**json.loads(json.dumps(asdict(task)))) for task in tasks]
    asked = {run.run_id: ask for task in sent for run, ask in zip(task.specs(), task.asked_of(), strict=True)}
    assert asked == {run.run_id: run.everything_asked for run in wanted}
    assert any(ask.readings and ask.checkpoints for ask in asked.values())
    assert any(not task.asked for task in tasks), "runs of which nothing is asked carry nothing"


def records(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("storage/runs/*/result.json")}


def test_a_step_asked_for_later_is_told_by_plan_and_trained_for_and_the_first_result_stays(copied, capsys):
    path = copied / "study.yaml"
    path.write_text(path.read_text().replace("at_steps: [5, 10]", "at_steps: [5, 10, 15]"))
    before, scores = records(copied), results_of(path, copied / "storage").scores
    assert main(["plan", str(path), "--storage", str(copied / "storage"), "--json", "-"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["to_evaluate"], len(plan["to_retrain_for_readings"]), plan["to_retrain"]) == (3, 3, [])
    assert main(["plan", str(path), "--storage", str(copied / "storage")]) == 0
    assert "3 of those are trained again, their first results kept" in capsys.readouterr().out
    assert launch(path, copied / "storage").is_complete
    assert records(copied) == before
    after = results_of(path, copied / "storage").scores
    assert after[after["protocol"] != "steps@step15"].reset_index(drop=True).equals(scores.query("score == score"))
    assert after[after["protocol"] == "steps@step15"]["score"].notna().all()


def test_a_run_trained_again_in_other_micro_batches_keeps_all_that_its_result_tells_of(copied, capsys):
    path, storage = copied / "study.yaml", copied / "storage"
    runs = results_of(path, storage).storage.runs
    wanted = [run for run in make_wave(results_of(path, storage).state).wanted.values() if run.asked.readings]
    files = [file for run in wanted for file in runs.folder(run.run_id).rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    torn = weights_path(runs.folder(wanted[0].run_id), 20)
    torn.write_bytes(before.pop(torn)[:50])
    context = wanted[0].run.model.context
    text = path.read_text().replace("at_steps: [5, 10]", "at_steps: [5, 10, 15]")
    path.write_text(text + f"\nresources: {{micro_batch_tokens: {context}}}\n")
    assert launch(path, storage).is_complete
    changed = [file.name for file, content in before.items() if file.read_bytes() != content]
    assert changed == []
    assert all(weights_path(runs.folder(run.run_id), 15).exists() for run in wanted)
    assert read_weights(torn.parent, 20) is not None, "torn last weights are made again"
    assert main(["storage", "verify", "--storage", str(storage)]) == 0, capsys.readouterr().out


def test_a_new_validation_set_evaluates_the_kept_weights_of_every_step_and_read_out(copied, monkeypatch):
    path, storage = copied / "study.yaml", copied / "storage"
    (copied / "new.txt").write_text((copied / "extra.txt").read_text()[::-1])
    more = "  more: {source: {kind: text, files: [new.txt]}, max_documents: 2}"
    path.write_text(path.read_text().replace("\nmodels:", f"\n{more}\nmodels:"))
    monkeypatch.setattr(raystudy.train.run, "Training", None)  # nothing may train
    assert launch(path, storage).is_complete
    scores = results_of(path, storage).scores.query("metric == 'loss/more' and protocol != 'truth'")
    assert scores["score"].notna().all()
    assert scores["score"].nunique() == 18, "6 candidates of 3 recipes"


def test_a_torn_reading_is_made_again_from_kept_weights_and_torn_weights_by_training(copied):
    path, storage = copied / "study.yaml", copied / "storage"
    results = results_of(path, storage)
    before, scores = records(copied), results.scores
    wanted = next(run for run in make_wave(results.state).wanted.values() if len(run.asked.readings) > 1)
    folder = results.storage.runs.folder(wanted.run_id)
    for evaluation in (folder / "eval").glob("*.json"):
        evaluation.write_text(evaluation.read_text()[:50])
    weights_path(folder, 5).write_bytes(b"torn")
    assert launch(path, storage).is_complete
    assert records(copied) == before
    assert results_of(path, storage).scores.equals(scores)
    assert list(folder.glob("weights-5.safetensors.bad-*"))


def test_a_branch_without_its_parents_checkpoint_replays_it_and_gives_the_same_loss(copied):
    path, storage = copied / "study.yaml", copied / "storage"
    results = results_of(path, storage)
    scores = results.scores
    branches = [run for run in make_wave(results.state).wanted.values() if run.parent is not None]
    for place, branch in enumerate(branches):
        shutil.rmtree(results.storage.runs.folder(branch.run_id))
        point = branch_path(results.storage.runs.folder(branch.parent.run_id), 10)
        point.unlink() if place else point.write_bytes(b"torn")
    launched = launch(path, storage)
    assert launched.is_complete
    assert launched.num_made == len(branches)
    again = results_of(path, storage)
    assert again.scores.equals(scores)
    assert {again.state.record(branch).result["replayed_steps"] for branch in branches} == {10}
    assert all(branch_path(again.storage.runs.folder(branch.parent.run_id), 10).exists() for branch in branches)


def test_a_storage_with_branches_and_read_outs_is_whole_and_travels(copied, tmp_path, capsys):
    path, storage = str(copied / "study.yaml"), str(copied / "storage")
    assert main(["storage", "verify", "--storage", storage]) == 0
    out = tmp_path / "study.parquet"
    name = load_study(Path(path)).spec.name
    assert main(["export", name, "--storage", storage, "--out", str(out)]) == 0
    assert main(["import", str(out), "--storage", str(tmp_path / "new")]) == 0
    before = results_of(Path(path), Path(storage))
    after = StudyResults(Storage(tmp_path / "new"), Storage(tmp_path / "new").study(before.study.name))
    assert after.scores.equals(before.scores)
    assert main(["storage", "verify", "--storage", str(tmp_path / "new")]) == 0
    evaluation = max((copied / "storage").glob("runs/*/eval/*.json"))
    evaluation.write_text(evaluation.read_text().replace('"step": ', '"step": 1'))
    assert main(["storage", "verify", "--storage", storage]) != 0
    assert evaluation.name in capsys.readouterr().out


def test_a_diverged_parents_branch_has_diverged_and_earlier_steps_keep_their_scores(tmp_path):
    wild = "{kind: reduced-lr, model: proxy, lr: 1e5, seeds: [0]"
    protocols = f"  early: {wild}, at_steps: [3, 15]}}\n  decayed: {wild}, branch: {{at: 15, steps: 2}}}}"
    path = the_study(tmp_path, protocols)
    assert launch(path, tmp_path / "storage").is_complete
    results = results_of(path, tmp_path / "storage")
    scores = results.scores.query("metric == 'loss'").groupby("protocol")["score"]
    assert all(math.isinf(score) for score in scores.get_group("early@step15"))
    assert all(math.isinf(score) for score in scores.get_group("decayed"))
    assert launch(path, tmp_path / "storage").num_made == 0
    ledger = results.storage.runs
    parent = next(run for run in make_wave(results.state).wanted.values() if run.asked.readings)
    assert {value["status"] for value in ledger.read_evaluations(parent.run_id) if value["step"] == 15} == {"diverged"}


def test_a_probe_on_the_way_of_a_branch_ends_where_the_branchs_parent_diverged(tmp_path, monkeypatch):
    wild = "{kind: reduced-lr, model: proxy, lr: 1e5, seeds: [0], branch: {at: 15, steps: 4}}"
    probe = "{kind: sharpness, model: proxy, batches: 2, iterations: 2, at: {protocol: decayed, step: 2}}"
    path, storage = the_study(tmp_path, f"  decayed: {wild}\n  sharp: {probe}"), tmp_path / "storage"
    launched = launch(path, storage)
    assert (launched.causes, launched.waiting) == ({}, [])
    results = results_of(path, storage)
    assert all(results.state.is_done(run) for run in make_wave(results.state).wanted.values())
    scores = results.scores.query("metric == 'loss'").groupby("protocol")["score"]
    assert all(math.isinf(score) for score in scores.get_group("sharp"))
    # Nothing is replayed for a record that an earlier raystudy left without its readings.
    branches = [run for run in make_wave(results.state).wanted.values() if run.parent is not None]
    for branch in branches:
        shutil.rmtree(results.storage.runs.folder(branch.run_id) / "eval")
    monkeypatch.setattr(raystudy.train.run, "Training", None)
    assert len(branches) == 3
    assert launch(path, storage).is_complete
