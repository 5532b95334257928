"""`raystudy export-model`: a folder that transformers loads, with the run's own loss; what it refuses."""

import numpy as np
import pytest
import torch
import transformers

from raystudy import load
from raystudy.artifacts.files import read_json
from raystudy.artifacts.shards import open_tokens
from raystudy.recipes.tokenizer import open_tokenizer
from tests.conftest import FEATURES, TINY


@pytest.fixture(scope="session")
def finished(tiny_storage) -> tuple[str, dict]:
    """A finished run of the tiny study, and an evaluation of its last weights."""
    results = load(tiny_storage / "studies" / "tiny")
    run_id = results.runs.query("status == 'finished' and model == 'target'").run_id.iloc[0]
    evaluations = [read_json(path) for path in (tiny_storage / "runs" / run_id / "eval").iterdir()]
    last = [evaluation for evaluation in evaluations if evaluation["readout"] == "last"]
    return run_id, max(last, key=lambda evaluation: evaluation["step"])


def test_transformers_loads_the_folder_and_gives_the_losses_of_the_record(verb, tiny_storage, finished, tmp_path):
    run_id, evaluation = finished
    status, shown, _ = verb("export-model", TINY, tmp_path / "model", "--run", run_id[:9], "--storage", tiny_storage)
    assert status == 0
    assert f"run {run_id} as GPT2LMHeadModel" in shown
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    context = model.config.n_positions
    for document, expected in zip(
        open_tokens(tiny_storage, evaluation["validation"]).documents()[:3], evaluation["loss_sum"], strict=False
    ):
        total = 0.0
        for start in range(0, len(document) - 1, context):
            window = torch.from_numpy(document[start : start + context + 1].astype(np.int64))
            with torch.no_grad():
                logits = model(window[None, :-1]).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
        assert total == pytest.approx(expected, rel=1e-5)


def test_the_tokenizer_goes_with_the_model(verb, tiny_storage, finished, tmp_path):
    verb("export-model", "tiny", tmp_path / "model", "--run", finished[0], "--storage", tiny_storage)
    tokenizer, own = transformers.AutoTokenizer.from_pretrained(tmp_path / "model"), open_tokenizer("embedded")
    text = "Returns the sum of two numbers.\n\n    def add(x, y):\n        return x + y  # naïve\n"
    assert tokenizer(text)["input_ids"] == own.encode([text])[0].tolist()
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == own.end_of_text


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    verb, tiny_storage, finished, features_source, tmp_path
):
    def refused(*arguments: object, expected: str) -> None:
        status, _, told = verb("export-model", *arguments)
        assert status != 0
        assert expected in told
        assert not (tmp_path / "model").exists()

    at, run_id = ("--storage", tiny_storage), finished[0]
    refused("tiny", tmp_path / "model", "--run", "xyz", *at, expected="'xyz' is that of 0")
    refused("tiny", tmp_path / "model", "--run", "", *at, expected="how the id of one run of 'tiny' begins")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused("tiny", tmp_path / "full", "--run", run_id, *at, expected="must be a new or an empty folder")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    refused(
        "tiny", tmp_path / "full" / "mine.txt", "--run", run_id, *at, expected="must be a folder that can be written"
    )
    features = load(features_source / "studies" / "tiny-features").runs.run_id.iloc[0]
    elsewhere = ("--storage", features_source)
    refused(FEATURES, tmp_path / "model", "--run", features, *elsewhere, expected="must be a run of a decoder")


def test_a_run_without_weights_is_refused(verb, tiny_storage, finished, tmp_path):
    weights = next((tiny_storage / "runs" / finished[0]).glob("weights-*"))
    aside = weights.rename(tmp_path / weights.name)
    try:
        status, _, told = verb(
            "export-model", "tiny", tmp_path / "model", "--run", finished[0], "--storage", tiny_storage
        )
    finally:
        aside.rename(weights)
    assert status == 4
    assert "must have weights, but none lie on the storage" in told
