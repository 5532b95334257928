"""Where items come from: held-out text and own files; what cannot be items is refused with a way out."""

import json

import numpy as np
import pytest

from raystudy.artifacts.items import open_items
from raystudy.artifacts.shard_writer import write_tokens
from raystudy.artifacts.shards import open_tokens
from raystudy.errors import DataError
from raystudy.recipes.downstream.build import build_task, find_task
from raystudy.recipes.downstream.questions import encode_pairs
from raystudy.recipes.tokenizer import open_tokenizer
from raystudy.specs.downstream import ContinuationTask, JsonlTask
from tests.cli.conftest import contents

TEXTS = [f"The {n}th page says that number {n} comes before number {n + 1}, as it must in any list." for n in range(40)]


@pytest.fixture
def validation(tmp_path) -> str:
    tokenizer = open_tokenizer("embedded")
    lengths = [len(text) for text in TEXTS]
    return write_tokens(tmp_path, tokenizer.encode(TEXTS), lengths, tokenizer.vocabulary_size, tokenizer.end_of_text)


def continuation(**changes) -> ContinuationTask:
    fields = {"kind": "continuation", "validation": "v", "context_tokens": 6, "continuation_tokens": 4}
    return ContinuationTask(**{**fields, **changes})


def joined(choice) -> list[int]:
    return [*choice.context.tolist(), *choice.continuation.tolist()]


def test_the_right_continuation_follows_in_a_document_and_the_wrong_ones_stand_in_others(tmp_path, validation):
    shard = open_items(tmp_path, build_task(continuation(items=30), validation, "embedded", tmp_path))
    documents = [document.tolist() for document in open_tokens(tmp_path, validation).documents()]

    def stands_in(part: list[int]) -> set[int]:
        places = {n: range(len(document) - len(part) + 1) for n, document in enumerate(documents)}
        return {n for n in places if any(documents[n][i : i + len(part)] == part for i in places[n])}

    owners = []
    for item in shard.items:
        assert len({choice.continuation.tobytes() for choice in item.choices}) == 4
        assert all(len(choice.context) == 6 and len(choice.continuation) == 4 for choice in item.choices)
        owner = stands_in(joined(item.choices[item.right]))
        assert owner
        owners.append(owner)
        for place, choice in enumerate(item.choices):
            if place != item.right:
                assert stands_in(choice.continuation.tolist())
                assert not owner & stands_in(joined(choice))
    assert len(shard.items) == 30
    assert len({min(owner) for owner in owners}) > 20, "each document gives at most one item"
    assert {item.right for item in shard.items} == {0, 1, 2, 3}, "the right one has no place of its own"


def test_items_are_the_same_for_the_same_spec_and_set_and_others_for_another_seed(tmp_path, validation):
    digest = build_task(continuation(), validation, "embedded", tmp_path)
    before = contents(tmp_path)
    assert find_task(continuation(), validation, "embedded", tmp_path) == digest
    assert build_task(continuation(), validation, "embedded", tmp_path) == digest
    assert contents(tmp_path) == before
    (tmp_path / "built").rename(tmp_path / "forgotten")
    assert find_task(continuation(), validation, "embedded", tmp_path) is None
    assert build_task(continuation(), validation, "embedded", tmp_path) == digest
    assert build_task(continuation(seed=1), validation, "embedded", tmp_path) != digest


@pytest.mark.parametrize("changes", [{"context_tokens": 400}, {"continuation_tokens": 39}])
def test_a_set_that_gives_no_item_is_refused_with_what_to_change(tmp_path, validation, changes):
    with pytest.raises(DataError, match=r"none of the 40 documents .* gives one.*Lower `context_tokens`"):
        build_task(continuation(**changes), validation, "embedded", tmp_path)


def test_context_and_continuation_become_tokens_as_the_harness_cuts_them():
    tokenizer = open_tokenizer("embedded")
    pairs = [("The cat sat on", " the mat"), ("The cat sat on ", "the mat"), ("", "alone"), ("a", "")]
    encoded = encode_pairs(tokenizer, pairs)
    assert [context[0] for context, _ in encoded] == [tokenizer.end_of_text] * 4
    (whole,) = tokenizer.encode(["The cat sat on the mat"])
    np.testing.assert_array_equal(np.concatenate(encoded[0])[1:], whole)
    for part in range(2):
        np.testing.assert_array_equal(encoded[0][part], encoded[1][part])
    assert tokenizer.decode([encoded[2][1].tolist()]) == ["alone"]
    assert len(encoded[2][0]) == 1
    assert len(encoded[3][1]) == 0


def write_lines(path, rows) -> JsonlTask:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return JsonlTask(kind="jsonl", files=(str(path),))


def test_own_questions_are_asked_as_they_are_written(tmp_path):
    rows = [
        {"query": "Grass is", "choices": ["green", "made of glass", "blau\u00e4"], "gold": 0, "source": "x"},
        "",
        {"query": "", "choices": ["a", "b"], "gold": 1},
    ]
    task = write_lines(tmp_path / "q.jsonl", rows)
    shard = open_items(tmp_path, build_task(task, "", "embedded", tmp_path))
    tokenizer = open_tokenizer("embedded")
    first, second = shard.items
    assert (first.right, second.right) == (0, 1)
    texts = tokenizer.decode([joined(choice)[1:] for item in shard.items for choice in item.choices])
    assert texts == ["Grass is green", "Grass is made of glass", "Grass is blau\u00e4", " a", " b"]
    assert [choice.num_characters for choice in first.choices] == [5, 13, 5]
    one = task.model_copy(update={"max_items": 1})
    assert len(open_items(tmp_path, build_task(one, "", "embedded", tmp_path)).items) == 1
    moved = write_lines(tmp_path / "elsewhere.jsonl", rows)
    assert find_task(moved, "", "embedded", tmp_path) == shard.digest, "what the file holds counts, not where it lies"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "must be JSON"),
        ("[1]", "must be a question such as"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "must be a question such as"),
        ('{"query": "a", "choices": ["b", ""], "gold": 0}', "must be text that is not empty"),
        ('{"query": "a", "choices": ["b", 3], "gold": 0}', "must be text that is not empty"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "`gold` must be a place among the 2 choices"),
        ('{"query": "a", "choices": ["b", "c"], "gold": true}', "`gold` must be a place"),
        ('{"query": "a\\ud800", "choices": ["b", "c"], "gold": 0}', "must be valid Unicode"),
    ],
)
def test_a_line_that_is_no_question_is_named_with_what_is_wrong(tmp_path, line, told):
    good = {"query": "a", "choices": ["b", "c"], "gold": 0}
    task = write_lines(tmp_path / "q.jsonl", [good, line])
    with pytest.raises(DataError, match=rf"q\.jsonl:2: .*{told}"):
        build_task(task, "", "embedded", tmp_path)


def test_files_that_are_not_there_or_empty_are_told(tmp_path):
    with pytest.raises(DataError, match="every file of a jsonl task must exist"):
        build_task(JsonlTask(kind="jsonl", files=(str(tmp_path / "no.jsonl"),)), "", "embedded", tmp_path)
    with pytest.raises(DataError, match="a task must have items"):
        build_task(write_lines(tmp_path / "q.jsonl", [""]), "", "embedded", tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="must be UTF-8 text"):
        build_task(JsonlTask(kind="jsonl", files=(str(tmp_path / "latin.jsonl"),)), "", "embedded", tmp_path)
