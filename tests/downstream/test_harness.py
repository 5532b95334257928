"""lm-evaluation-harness: its local tasks, a model whose answers are known, and our own answers equal to its own."""

import json

import numpy as np
import pytest

from raystudy.artifacts.downstream import task_metrics
from raystudy.artifacts.items import open_items
from raystudy.artifacts.storage import Storage
from raystudy.errors import DataError, MissingPackageError, StorageError
from raystudy.execute.downstream_work import answer
from raystudy.execute.harness import harness_model
from raystudy.execute.work import Task, do_task
from raystudy.recipes.downstream import harness as harness_source
from raystudy.recipes.downstream.build import build_task
from raystudy.recipes.downstream.questions import encode_pairs
from raystudy.recipes.tokenizer import open_tokenizer
from raystudy.specs.downstream import HarnessTask, JsonlTask
from tests.conftest import make_shards
from tests.downstream.known_model import PairModel
from tests.train.test_training import a_run

pytestmark = pytest.mark.filterwarnings("default")  # what the harness and its packages warn of is not ours

ROWS = [
    {"query": "The sky is", "choices": ["blue", "made of old stones", "square"], "gold": 0},
    {"query": "Two and two are", "choices": ["five", "four", "a very long answer, and wrong"], "gold": 1},
    {"query": "Water is", "choices": ["blue", "wet"], "gold": 1},
]
YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {path}}}}}
validation_split: validation
output_type: {kind}
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder with a local task of the harness, and its items as our own jsonl."""
    folder = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        items = folder / "items.jsonl"
        items.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        include = folder / "tasks"
        include.mkdir()
        (include / "quiz.yaml").write_text(YAML.format(name="raystudy_quiz", path=items, kind="multiple_choice"))
        (include / "words.yaml").write_text(YAML.format(name="raystudy_words", path=items, kind="generate_until"))
        yield include, items


def known_model():
    """A model that says blue after is, and four after are, whatever stood before."""
    tokenizer = open_tokenizer("embedded")
    encoded = encode_pairs(tokenizer, [("The sky is", " blue"), ("Two and two are", " four")])
    table = {int(context[-1]): int(continuation[0]) for context, continuation in encoded}
    assert len(table) == 2
    return PairModel(tokenizer.vocabulary_size, table, strength=6.0), tokenizer


def evaluate(model, include, name="raystudy_quiz"):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(include), include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=[name], task_manager=manager, bootstrap_iters=0)


def test_the_harness_and_our_own_answers_agree_for_a_model_whose_answers_are_known(local, tmp_path):
    from functools import partial

    from raystudy.train.harness import HarnessModel

    include, items = local
    model, tokenizer = known_model()
    result = evaluate(HarnessModel(model, partial(encode_pairs, tokenizer), 64), include)
    figures = result["results"]["raystudy_quiz"]
    assert figures["acc,none"] == pytest.approx(2 / 3), "right on the sky and on two and two, wrong on water"
    run = a_run("x", vocabulary=tokenizer.vocabulary_size, context=64)
    spec = HarnessTask(kind="harness", task="raystudy_quiz", include=str(include))
    shard = open_items(tmp_path, build_task(spec, "", "embedded", tmp_path))
    answers = answer(model, run, shard, "cpu")
    metrics = task_metrics(answers)
    assert metrics["accuracy"] == pytest.approx(figures["acc,none"])
    assert metrics["accuracy-per-character"] == pytest.approx(figures["acc_norm,none"])
    samples = sorted(result["samples"]["raystudy_quiz"], key=lambda sample: sample["doc_id"])
    theirs = [[response[0][0] for response in sample["resps"]] for sample in samples]
    for mine, other in zip(answers["log_probability"], theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
    # by hand: "is" -> "blue" has logit 6, all others 0; `wet` is of one token or more
    first_token = 6 - np.log(np.exp(6) + tokenizer.vocabulary_size - 1)
    (blue,) = encode_pairs(tokenizer, [("The sky is", " blue")])
    rest = (len(blue[1]) - 1) * -np.log(tokenizer.vocabulary_size)
    assert answers["log_probability"][0][0] == pytest.approx(first_token + rest, rel=1e-5)
    own = JsonlTask(kind="jsonl", files=(str(items),))
    assert build_task(own, "", "embedded", tmp_path) == shard.digest, "the same questions, the same items"


def test_a_trained_run_is_a_model_of_the_harness(local, tmp_path):
    tokenizer = open_tokenizer("embedded")
    view, validation = make_shards(tmp_path, vocabulary=tokenizer.vocabulary_size)
    spec = a_run(view, steps=2, vocabulary=tokenizer.vocabulary_size)
    include, items = local
    digest = build_task(JsonlTask(kind="jsonl", files=(str(items),)), "", "embedded", tmp_path)
    task = Task((spec.model_dump_json(),), str(tmp_path), {validation: "v"}, downstream={digest: "quiz"})
    assert [report.status for report in do_task(task)] == ["finished"]
    model = harness_model(Storage(tmp_path), spec.run_id)
    figures = evaluate(model, include)["results"]["raystudy_quiz"]
    record = Storage(tmp_path).runs.read(spec.run_id)
    assert record.metric("accuracy", digest) == pytest.approx(figures["acc,none"])
    from lm_eval.api.instance import Instance

    text = "The sky is blue, and so on for more than sixteen tokens of text, which is the context of this model."
    ask = Instance("loglikelihood_rolling", {}, (text,), 0)
    pair = Instance("loglikelihood", {}, ("", text), 0)
    assert model.loglikelihood_rolling([ask])[0] == pytest.approx(model.loglikelihood([pair])[0][0])
    with pytest.raises(DataError, match="asks for 1 generated texts"):
        model.generate_until([ask])
    with pytest.raises(StorageError, match="must be a finished run"):
        harness_model(Storage(tmp_path), "0" * 32)


def test_a_fewshot_task_shows_solved_examples_in_front(local, tmp_path):
    include, _ = local
    spec = HarnessTask(kind="harness", task="raystudy_quiz", include=str(include), fewshot=1, max_items=2)
    shard = open_items(tmp_path, build_task(spec, "", "embedded", tmp_path))
    assert len(shard.items) == 2
    tokenizer = open_tokenizer("embedded")
    shown = tokenizer.decode([item.choices[0].context.tolist()[1:] for item in shard.items])
    for text, row in zip(shown, ROWS, strict=False):
        assert text.endswith(row["query"])
        assert len(text) > len(row["query"]) + 5


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "helaswag"}, "must be the name of a task of lm-evaluation-harness"),
        ({"task": "raystudy_words"}, "must be multiple-choice with one right answer"),
        ({"include": "/no/such/folder"}, "must be a folder of YAML files"),
    ],
)
def test_what_is_no_multiple_choice_task_of_the_harness_is_refused(local, tmp_path, changes, told):
    include, _ = local
    fields = {"kind": "harness", "task": "raystudy_quiz", "include": str(include)} | changes
    with pytest.raises(DataError, match=told):
        build_task(HarnessTask(**fields), "", "embedded", tmp_path)


@pytest.mark.usefixtures("local")
def test_the_papers_tasks_are_known_by_name_and_without_a_hub_the_way_out_is_told(tmp_path):
    for name in ("hellaswag", "winogrande", "openbookqa", "arc_easy", "commonsense_qa"):
        with pytest.raises(DataError, match=f"harness's task '{name}' must be had from its hub.*kind `jsonl`"):
            build_task(HarnessTask(kind="harness", task=name), "", "embedded", tmp_path)


def test_without_the_harness_the_extra_is_named(tmp_path, monkeypatch):
    def missing(_name):
        raise harness_source.PackageNotFoundError

    monkeypatch.setattr(harness_source, "version", missing)
    with pytest.raises(MissingPackageError, match=r"raystudy\[tasks\]"):
        build_task(HarnessTask(kind="harness", task="hellaswag"), "", "embedded", tmp_path)
