"""Building the embedded recipes: found again, named by content, held out per domain."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.errors import DataError
from raystudy.recipes.build import build_recipe, build_validation, find_recipe, find_validation, inputs_digest
from raystudy.recipes.embedded.manifest import read_documents
from raystudy.recipes.tokenizer import open_tokenizer
from raystudy.specs.recipe import EmbeddedSource, TextRecipe, ValidationSet


def _mixture(name: str = "m", tokens: int | None = None, steps: Any = (), **weights: float) -> TextRecipe:
    sources = {
        domain: {"kind": "embedded", "domains": [domain], "weight": weight} for domain, weight in weights.items()
    }
    data = {"kind": "text", "name": name, "dimension": "corpus", "sources": sources, "steps": steps, "tokens": tokens}
    return TextRecipe.model_validate_json(json.dumps(data))


def test_every_recipe_that_is_no_control_lasts_for_300000_tokens(
    catalogue: dict[str, TextRecipe], built: dict[str, str], storage: Path
) -> None:
    for name, recipe in catalogue.items():
        sources = open_view(storage, built[name]).sources
        if not recipe.control:
            assert sum(source.num_tokens for source in sources) >= 600_000
            assert min(source.num_tokens / source.weight for source in sources) >= 300_000


def test_recipes_of_the_catalogue_differ(built: dict[str, str]) -> None:
    assert len(set(built.values())) == len(built)


def test_a_second_build_finds_the_first_at_once(
    catalogue: dict[str, TextRecipe], built: dict[str, str], storage: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("*")}
    start = time.perf_counter()
    again = {name: build_recipe(recipe, "embedded", storage) for name, recipe in catalogue.items()}
    seconds = time.perf_counter() - start
    assert again == built
    assert {path: path.stat().st_mtime_ns for path in storage.rglob("*")} == before
    assert seconds < 0.05 * len(built)


def test_another_storage_gives_the_same_digest(built: dict[str, str], storage: Path, tmp_path: Path) -> None:
    assert built
    recipe = _mixture(licences=1, stubs=1, steps=[{"step": "keep-best", "share": 0.7}])
    assert find_recipe(recipe, "embedded", tmp_path) is None
    digest = build_recipe(recipe, "embedded", tmp_path)
    assert build_recipe(recipe, "embedded", storage) == digest
    assert find_recipe(recipe, "embedded", tmp_path) == digest


def test_names_and_descriptions_change_no_digest(built: dict[str, str], storage: Path) -> None:
    assert built
    recipe = _mixture(licences=1, stubs=1)
    sources = {f"renamed {name}": source for name, source in recipe.sources.items()}
    described = {"name": "other", "description": "d", "family": "f", "control": True, "dimension": "filtering"}
    renamed = recipe.model_copy(update={**described, "sources": sources})
    assert inputs_digest(renamed, "embedded") == inputs_digest(recipe, "embedded")
    assert build_recipe(renamed, "embedded", storage) == build_recipe(recipe, "embedded", storage)


def test_weights_count_as_shares(built: dict[str, str], storage: Path) -> None:
    assert built
    digests = [
        build_recipe(_mixture(licences=a, stubs=b), "embedded", storage) for a, b in [(1, 1), (2, 2), (1, 2), (2, 1)]
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_steps_budgets_and_order_change_the_digest(built: dict[str, str], storage: Path) -> None:
    assert built
    recipes = [
        _mixture(licences=1, stubs=1),
        _mixture(stubs=1, licences=1),
        _mixture(licences=1, stubs=1, tokens=40_000),
        _mixture(licences=1, stubs=1, steps=[{"step": "noise", "share": 0.1}]),
        _mixture(licences=1, stubs=1, steps=[{"step": "deduplicate", "level": "exact"}]),
    ]
    assert len({build_recipe(recipe, "embedded", storage) for recipe in recipes}) == len(recipes)
    assert len({inputs_digest(recipe, "embedded") for recipe in recipes}) == len(recipes)


def test_a_filter_writes_no_tokens(built: dict[str, str], storage: Path) -> None:
    shards = {
        name: {
            part["shard"] for source in open_view(storage, built[name]).manifest["sources"] for part in source["parts"]
        }
        for name in ("crawl", "best-40", "unique-near", "shuffled")
    }
    assert shards["best-40"] <= shards["crawl"]
    assert shards["unique-near"] <= shards["crawl"]
    assert not shards["shuffled"] & shards["crawl"]


def test_a_token_budget_is_shared_by_weight_and_a_smaller_one_keeps_a_part(
    built: dict[str, str], storage: Path
) -> None:
    assert built
    views = [
        open_view(storage, build_recipe(_mixture(code=3, prose=1, tokens=tokens), "embedded", storage))
        for tokens in (40_000, 80_000)
    ]
    for view, tokens in zip(views, (40_000, 80_000), strict=True):
        code, prose = view.sources
        assert tokens * 0.75 - 5000 < code.num_tokens <= tokens * 0.75
        assert tokens * 0.25 - 5000 < prose.num_tokens <= tokens * 0.25
        epochs = [source["epochs"] for source in view.manifest["sources"]]
        assert epochs == pytest.approx([tokens * 0.75 / code.num_tokens, tokens * 0.25 / prose.num_tokens])
    assert _documents(views[0], storage) < _documents(views[1], storage)


def _documents(view: Any, storage: Path) -> set[tuple[str, int]]:
    folder = storage / "shards" / view.digest
    parts = [part for source in view.manifest["sources"] for part in source["parts"]]
    return {(part["shard"], index) for part in parts for index in np.load(folder / part["kept"]).tolist()}


def test_max_bytes_cuts_a_source(built: dict[str, str], storage: Path) -> None:
    assert built
    source = EmbeddedSource(kind="embedded", domains=("prose", "stubs"), max_bytes=100_000)
    recipe = _mixture(prose=1).model_copy(update={"sources": {"s": source}})
    view = open_view(storage, build_recipe(recipe, "embedded", storage))
    assert 90_000 < view.manifest["bytes"] <= 100_000


def test_a_budget_below_one_document_says_so(built: dict[str, str], storage: Path) -> None:
    assert built
    with pytest.raises(
        DataError, match=r"'prose' of recipe 'm' keeps no document within 5 tokens: \d+ documents of \d+"
    ):
        build_recipe(_mixture(prose=1, tokens=5), "embedded", storage)


@pytest.mark.parametrize("domain", ["prose", "code", "tests", "headers"])
def test_a_validation_set_holds_the_held_out_documents_cut_to_size(domain: Any, storage: Path) -> None:
    source = EmbeddedSource(kind="embedded", domains=(domain,))
    validation = ValidationSet(source=source, max_documents=20, max_document_bytes=300)
    assert find_validation(validation, "embedded", storage) is None
    digest = build_validation(validation, "embedded", storage)
    assert find_validation(validation, "embedded", storage) == digest
    shard = open_tokens(storage, digest)
    assert len(shard.documents()) == len(shard.document_bytes) == 20
    assert all(1 <= size <= 300 for size in shard.document_bytes.tolist())
    expected = {text.encode()[:300].decode(errors="ignore") for text in read_documents(domain, "validation")}
    arrays = open_tokenizer("embedded").encode(sorted(expected))
    known = {tuple(array.tolist()) for array in arrays}
    for document in shard.documents():
        assert document[0] == 0
        assert tuple(document[1:].tolist()) in known
