"""Tasks in a study: answered at a run's end, later ones by kept weights; scores are the negative, in comparisons."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import raystudy
from raystudy.artifacts.downstream import join_answers
from raystudy.artifacts.items import Choice, Item, write_items
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.errors import SpecError
from raystudy.execute.work import Task, do_task, failed_reports
from raystudy.specs.downstream import TASK_METRICS
from raystudy.specs.load import load_study
from raystudy.specs.reading import Asked, Ema, Reading
from raystudy.specs.schedules import Constant
from tests.conftest import ROOT, make_shards
from tests.train.test_training import a_run

TASKS = ROOT / "search_spaces" / "tiny-tasks.yaml"
PROSE = "{source: {kind: embedded, domains: [prose]}, max_documents: 12, max_document_bytes: 600}"
SMALL = [
    "--set", "training.steps=20", "--set", "recipes=[prose-heavy, code-heavy]",
    "--set", "protocols.truth.space={lr: {grid: [0.01], extend: 0}}", "--set", "models.small.width=16",
    "--set", f"validation={{prose: {PROSE}}}",
    "--set", "tasks={prose: {kind: continuation, validation: prose, items: 10}}",
    "--set", "comparison={metrics: [bits-per-byte]}",
]  # fmt: skip


def random_items(seed: int) -> list[Item]:
    generator = np.random.default_rng(seed)
    draw = lambda length: generator.integers(1, 64, length).astype(np.uint16)  # noqa: E731
    return [Item(tuple(Choice(draw(5), draw(3), 7) for _ in range(3)), place % 3) for place in range(6)]


def test_a_run_answers_its_tasks_and_a_later_task_costs_no_training(tmp_path):
    view, validation = make_shards(tmp_path)
    first, second = (write_items(tmp_path, random_items(seed), 64) for seed in (0, 1))
    spec = a_run(view)
    task = Task((spec.model_dump_json(),), str(tmp_path), {validation: "v"}, downstream={first: "quiz"})
    assert [report.status for report in do_task(task)] == ["finished"]
    ledger, folder = Storage(tmp_path).runs, tmp_path / "runs" / spec.run_id
    result = (folder / "result.json").read_bytes()
    rows = [row for row in json.loads(result)["metrics"] if row["dataset"] == first]
    assert [row["name"] for row in rows] == list(TASK_METRICS)
    assert {row["direction"] for row in rows} == {"higher-is-better"}
    assert {row["dataset_name"] for row in rows} == {"quiz"}
    more = Task(task.runs, task.storage, task.validation, downstream={first: "quiz", second: "more"})
    assert [report.status for report in failed_reports(more, "died")] == ["failed"], "its answers are lacking"
    assert [report.status for report in do_task(more)] == ["finished"]
    assert [report.status for report in failed_reports(more, "died")] == ["finished"]
    assert (folder / "result.json").read_bytes() == result
    records = {spec.run_id: ledger.read(spec.run_id)}
    assert records[spec.run_id].metric("accuracy", second) is None
    record = join_answers(ledger, records, [first, second])[spec.run_id]
    assert all(record.metric(name, second) is not None for name in TASK_METRICS)
    # the answers to the first task by kept weights are those at the end of the run
    (path,) = [p for p in (folder / "tasks").iterdir() if json.loads(p.read_text())["items"] == first]
    at_end = path.read_bytes()
    path.unlink()
    do_task(more)
    assert path.read_bytes() == at_end


def test_tasks_are_answered_at_steps_and_by_read_outs_as_by_a_run_that_ends_there(tmp_path):
    view, validation = make_shards(tmp_path)
    first, second = (write_items(tmp_path, random_items(seed), 64) for seed in (0, 1))
    smooth = Reading(step=30, readout=Ema(kind="ema"))
    asked = Asked(readings=(Reading(step=10), smooth))
    long, short = (constant(view, steps) for steps in (30, 10))
    task = Task((long.model_dump_json(),), str(tmp_path), {validation: "v"}, downstream={first: "quiz"})
    task = replace(task, asked=(asked.model_dump_json(),))
    alone = Task((short.model_dump_json(),), str(tmp_path), {validation: "v"}, downstream={first: "quiz", second: "b"})
    assert [report.status for report in (*do_task(task), *do_task(alone))] == ["finished"] * 2
    more = replace(task, downstream={first: "quiz", second: "more"})
    assert [report.status for report in failed_reports(more, "died")] == ["failed"], "answers are lacking"
    assert [report.status for report in do_task(more)] == ["finished"]
    assert [report.status for report in failed_reports(more, "died")] == ["finished"]
    ledger = Storage(tmp_path).runs
    records = {
        run.run_id: ledger.read(run.run_id, [validation], readings=asked.readings if run is long else ())
        for run in (long, short)
    }
    read, ended = join_answers(ledger, records, [first, second]).values()
    for items in (first, second):
        for name in TASK_METRICS:
            assert read.metric(name, items, Reading(step=10)) == ended.metric(name, items)
        name = "log-probability"
        assert len({read.metric(name, items, reading) for reading in (None, *asked.readings)}) == 3
    assert read.metric("loss", validation, Reading(step=10)) == ended.metric("loss", validation)
    assert read.metric("trigram-loss", validation, smooth) == ended.metric("trigram-loss", validation)
    assert verify(Storage(tmp_path)).problems == []


def constant(view: str, steps: int):
    run = a_run(view, steps=steps)
    schedule = Constant(kind="constant", warmup_steps=3, warmup=0.05)
    return run.model_copy(update={"settings": run.settings.model_copy(update={"schedule": schedule})})


def test_torn_answers_and_weights_are_made_anew_and_lost_weights_are_told(tmp_path):
    view, validation = make_shards(tmp_path)
    digest = write_items(tmp_path, random_items(0), 64)
    spec = a_run(view)
    task = Task((spec.model_dump_json(),), str(tmp_path), {validation: "v"}, downstream={digest: "quiz"})
    do_task(task)
    folder = tmp_path / "runs" / spec.run_id
    (answers,), (weights,) = (folder / "tasks").iterdir(), folder.glob("weights-*")
    right = answers.read_bytes()
    answers.write_bytes(right[:50])
    weights.write_bytes(weights.read_bytes()[:50])
    result = (folder / "result.json").read_bytes()
    assert [report.status for report in do_task(task)] == ["finished"]
    assert answers.read_bytes() == right
    assert (folder / "result.json").read_bytes() == result
    answers.unlink()
    weights.unlink()
    (report,) = do_task(task)
    assert report.status == "failed"
    assert "must answer the tasks quiz, but its weights were not kept" in report.cause


def test_a_new_task_is_answered_after_training_again_where_weights_are_gone_and_old_answers_stay(tmp_path):
    view, validation = make_shards(tmp_path)
    first, second = (write_items(tmp_path, random_items(seed), 64) for seed in (0, 1))
    asked = Asked(readings=(Reading(step=10), Reading(step=30, readout=Ema(kind="ema"))))
    run = constant(view, 30)
    task = Task((run.model_dump_json(),), str(tmp_path), {validation: "v"}, asked=(asked.model_dump_json(),))
    task, more = (replace(task, downstream=names) for names in ({first: "quiz"}, {first: "quiz", second: "more"}))
    assert do_task(task)[0].status == "finished"
    folder = tmp_path / "runs" / run.run_id
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    gone = {path: path.read_bytes() for path in folder.glob("weights-*") if path.name != "weights-30.safetensors"}
    assert len(gone) == 2
    assert do_task(more)[0].status == "finished"
    by_kept = {path: path.read_bytes() for path in set((folder / "tasks").iterdir()) - set(before)}
    assert len(by_kept) == 3
    for path in (*by_kept, *gone):
        path.unlink()
    assert [report.status for report in failed_reports(more, "died")] == ["failed"], "answers are lacking"
    assert do_task(more)[0].status == "finished"
    assert [report.status for report in failed_reports(more, "died")] == ["finished"]
    assert {path: path.read_bytes() for path in by_kept} == by_kept, "as kept weights would have answered"
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.read_bytes() for path in gone} == gone, "the weights are kept anew"


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_storage, cli):
    storage = tmp_path_factory.mktemp("tasks") / "storage"
    for folder in ("shards", "built"):  # text that is built already
        shutil.copytree(tiny_storage / folder, storage / folder)
    done = cli("run", TASKS, "--storage", storage, "--local", "--workers", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    return storage


def test_a_study_with_tasks_compares_them_as_scores_that_are_negated_once(small, verb):
    _, out, _ = verb("compare", "tiny-tasks", "--storage", small, "--json")
    comparison = json.loads(out)
    metrics = {entry["metric"]: entry for entry in comparison["comparisons"]}
    assert list(metrics) == ["loss", "loss/prose", "bits-per-byte", "task/prose/accuracy", "task/prose/probability"]
    assert -1 < metrics["task/prose/probability"]["mean_loss"] < 0
    assert metrics["task/prose/probability"]["mean_unigram_loss"] is None
    assert metrics["bits-per-byte"]["mean_unigram_loss"] > 1
    directions = {metric: entry["direction"] for metric, entry in metrics.items()}
    assert directions["task/prose/accuracy"] == "higher-is-better"
    assert directions["loss"] == "lower-is-better"
    assert "scores are the negative" in comparison["conventions"]["direction"]
    runs = raystudy.load(small / "studies" / "tiny-tasks").runs
    assert runs["task/prose/accuracy"].between(0, 1).all(), "a person reads them as they are"
    assert verb("storage", "verify", "--storage", small)[0] == 0
    assert verb("report", "tiny-tasks", "--storage", small)[0] == 0


def test_a_metric_of_a_task_may_be_the_primary_one_and_says_its_unit(small, tmp_path, cli, verb):
    storage = shutil.copytree(small, tmp_path / "storage")
    primary = ["--set", "comparison.primary_metric=task/prose/log-probability-per-character"]
    done = cli("run", TASKS, "--storage", storage, "--local", "--workers", "0", *SMALL, *primary)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    _, out, _ = verb("compare", TASKS, "--storage", storage, "--json", *SMALL, *primary)
    comparison = json.loads(out)
    assert comparison["unit"] == "nats per character, negated"
    assert all(row["loss"] > 0 for row in comparison["tuned_losses"]), "the negative of a log-probability"
    assert comparison["truth_guards"]["barely_trained"], "20 steps: told by the loss, whatever the primary metric"


def test_a_new_task_on_a_finished_study_costs_answers_of_kept_weights(small, tmp_path, cli, verb):
    storage = shutil.copytree(small, tmp_path / "storage")
    weights = {path: path.stat().st_mtime_ns for path in (storage / "runs").glob("*/weights-*")}
    added = [*SMALL[:-4], "--set", "tasks={prose: {kind: continuation, validation: prose, items: 10, seed: 5}}"]
    _, plan, _ = verb("plan", TASKS, "--storage", storage, *added, "--json")
    assert json.loads(plan)["total"]["missing"] == 4, "what is not built is not answered"
    assert json.loads(plan)["to_retrain"] == []
    done = cli("run", TASKS, "--storage", storage, "--local", "--workers", "0", *added)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (storage / "runs").glob("*/weights-*")} == weights
    exported = tmp_path / "out.parquet"
    assert verb("export", "tiny-tasks", "--storage", storage, "--out", exported)[0] == 0
    assert verb("import", exported, "--storage", tmp_path / "new")[0] == 0
    _, before, _ = verb("compare", "tiny-tasks", "--storage", storage, "--json")
    assert verb("compare", "tiny-tasks", "--storage", tmp_path / "new", "--json")[1] == before
    kept = {path.name for path in (storage / "runs").glob("*/tasks/*")}
    assert {path.name for path in (tmp_path / "new" / "runs").glob("*/tasks/*")} == kept


def test_items_that_a_worker_finds_damaged_are_told_to_the_driver_before_anything_is_trained(tmp_path):
    view, validation = make_shards(tmp_path)
    digest = write_items(tmp_path, random_items(0), 64)
    folder = tmp_path / "shards" / digest
    (folder / "items.npy").write_bytes(b"torn")
    spec = a_run(view)
    (report,) = do_task(Task((spec.model_dump_json(),), str(tmp_path), {validation: "v"}, downstream={digest: "quiz"}))
    assert (report.status, report.damaged) == ("failed", str(folder))
    assert not (tmp_path / "runs").exists()


def test_items_found_damaged_at_a_launch_are_built_anew(small, tmp_path, cli):
    storage = shutil.copytree(small, tmp_path / "storage")
    (folder,) = [path.parent for path in (storage / "shards").glob("*/choices.npy")]
    shutil.rmtree(storage / "runs")
    (folder / "tokens.bin").write_bytes(b"torn")
    done = cli("run", TASKS, "--storage", storage, "--local", "--workers", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "kept as" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("comparison.primary_metric=task/prose/acuracy", "Did you mean 'task/prose/accuracy'"),
        ("comparison.metrics=[loss-token-wieghted]", "Did you mean 'loss-token-weighted'"),
        ("tasks.prose.validation=pros", "must be the name of a validation set"),
        ("tasks.prose.kind=quiz", "must be one of continuation, jsonl, harness"),
        ("tasks.prose.choices=1", "greater than or equal to 2"),
    ],
)
def test_a_misspelt_task_or_metric_is_told_with_what_was_meant(override, told):
    with pytest.raises(SpecError, match=told):
        load_study(TASKS, [override])
