"""Every step keeps the same contract; ladders of strictness contain each other."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from raystudy.artifacts.shards import open_view
from raystudy.recipes.build import build_recipe
from raystudy.recipes.embedded.manifest import read_documents
from raystudy.recipes.steps import STEPS
from raystudy.recipes.steps.keep_best import quality
from raystudy.specs.recipe import EmbeddedSource, Step, TextRecipe

# One way to write each step; a step without an entry fails the test below.
EXAMPLES: dict[str, dict[str, Any]] = {
    "keep-best": {"share": 0.5},
    "deduplicate": {"level": "near"},
    "shuffle-words": {"share": 0.5},
    "noise": {"share": 0.1},
}
DROPPING = ("keep-best", "deduplicate")


def _step(name: str, **settings: Any) -> Any:
    data = {"step": name, **(settings or EXAMPLES[name])}
    return TypeAdapter(Step).validate_json(json.dumps(data))


def _apply(name: str, texts: tuple[str, ...] | list[str], **settings: Any) -> list[str | None]:
    return STEPS[name](_step(name, **settings), texts)


@pytest.fixture(scope="module")
def texts() -> tuple[str, ...]:
    found = read_documents("stubs", "train")[:60] + read_documents("licences", "train")
    return (*found, found[0], "", "中文 \u00e9", "x")


def test_every_step_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(STEPS)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_gives_one_item_per_document_in_order_and_leaves_its_input_alone(
    name: str, texts: tuple[str, ...]
) -> None:
    given = list(texts)
    after = _apply(name, given)
    assert given == list(texts)
    assert len(after) == len(texts)
    assert after != list(texts)
    if name in DROPPING:
        assert all(item is None or item == text for item, text in zip(after, texts, strict=True))
    else:
        assert None not in after


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_is_deterministic_even_in_another_process(name: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    program = (
        "import json, sys; from pydantic import TypeAdapter; from raystudy.recipes.steps import STEPS; "
        "from raystudy.specs.recipe import Step; "
        f"step = TypeAdapter(Step).validate_json({_step(name).model_dump_json()!r}); "
        f"print(json.dumps(STEPS[{name!r}](step, json.load(open(sys.argv[1], encoding='utf-8')))))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, str(tmp_path / "texts.json")]
    printed = subprocess.run(command, check=True, capture_output=True, cwd=root, text=True).stdout
    assert json.loads(printed) == _apply(name, texts)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_accepts_no_documents(name: str) -> None:
    assert _apply(name, []) == []


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_recipe_with_the_step_builds(name: str, storage: Path, built: dict[str, str]) -> None:
    assert built  # the domains are tokenised
    source = EmbeddedSource(kind="embedded", domains=("stubs", "licences"))
    recipe = TextRecipe(
        kind="text", name=name, dimension="corpus", sources={"all": source}, steps=(_step(name),), tokens=50_000
    )
    view = open_view(storage, build_recipe(recipe, "embedded", storage))
    assert 0 < view.num_tokens <= 50_000


def _kept(view_digest: str, storage: Path) -> set[tuple[str, int]]:
    manifest = open_view(storage, view_digest).manifest
    folder = storage / "shards" / view_digest
    return {
        (part["shard"], index)
        for source in manifest["sources"]
        for part in source["parts"]
        for index in np.load(folder / part["kept"]).tolist()
    }


@pytest.mark.parametrize(
    "ladder", [("crawl", "best-80", "best-60", "best-40"), ("crawl", "unique-exact", "unique-lines", "unique-near")]
)
def test_a_stricter_rung_keeps_a_smaller_part(ladder: tuple[str, ...], storage: Path, built: dict[str, str]) -> None:
    rungs = [_kept(built[name], storage) for name in ladder]
    for looser, stricter in itertools.pairwise(rungs):
        assert stricter < looser


def test_a_lower_threshold_keeps_a_part(texts: tuple[str, ...]) -> None:
    counts = []
    before = set(range(len(texts)))
    for threshold in (1.0, 0.5, 0.1):
        after = _apply("deduplicate", texts, level="near", threshold=threshold)
        kept = {index for index, text in enumerate(after) if text is not None}
        assert kept <= before
        before = kept
        counts.append(len(kept))
    assert counts[0] > counts[-1]


def test_near_copies_are_dropped_and_different_text_is_not() -> None:
    words = [f"word{number}" for number in range(100)]
    near = " ".join([*words[:99], "other"])
    half = " ".join([*words[:50], *(f"new{number}" for number in range(50))])
    assert _apply("deduplicate", [" ".join(words), near, half], level="near") == [" ".join(words), None, half]
    assert _apply("deduplicate", ["a copy", "a copy", "none"], level="exact") == ["a copy", None, "none"]


def test_written_language_is_rated_above_numbers_and_noise() -> None:
    sentence = "This is a sentence that was written for people, and it reads as such."
    assert quality(sentence) > quality("x = foo(bar[0], baz)") > quality("0.1 0.2 0.3\n0.1 0.2 0.3")


def test_shuffling_keeps_the_words_and_noise_the_length() -> None:
    text = "one two  three\nfour five six seven eight nine ten"
    shuffled = _apply("shuffle-words", [text], share=1.0)[0]
    assert shuffled is not None
    assert shuffled != text
    assert sorted(shuffled.split()) == sorted(text.split())
    noisy = _apply("noise", [text], share=0.5)[0]
    assert noisy is not None
    assert noisy != text
    assert len(noisy) == len(text)
