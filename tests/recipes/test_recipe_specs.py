"""Recipes and validation sets as a study file says them."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from raystudy.recipes.sources import SOURCES
from raystudy.recipes.steps import STEPS
from raystudy.specs.recipe import Recipe, Source, Step, SyntheticRecipe, TextRecipe, ValidationSet


def _recipe(**changes: Any) -> Any:
    sources = {"a": {"kind": "embedded", "domains": ["prose"]}}
    data = {"kind": "text", "name": "r", "dimension": "corpus", "sources": sources, **changes}
    return TypeAdapter(Recipe).validate_json(json.dumps(data))


def test_the_catalogue_has_every_dimension_two_ladders_and_controls(catalogue: dict[str, TextRecipe]) -> None:
    recipes = catalogue.values()
    assert len(catalogue) >= 10
    dimensions = {"domain mixture", "corpus", "filtering", "deduplication"}
    assert {recipe.dimension for recipe in recipes} == dimensions
    assert {recipe.dimension for recipe in recipes if not recipe.control} == dimensions
    families = [recipe.family for recipe in recipes if recipe.family]
    assert {family: families.count(family) for family in families} == {"filter-ladder": 3, "dedup-ladder": 3}
    assert sum(recipe.control for recipe in recipes) >= 3


@pytest.mark.parametrize("weights", [(-1, 1), (0, 0)])
def test_weights_that_are_negative_or_all_zero_are_refused(weights: tuple[int, int]) -> None:
    sources = {
        name: {"kind": "embedded", "domains": ["prose"], "weight": weight}
        for name, weight in zip("ab", weights, strict=True)
    }
    with pytest.raises(ValidationError, match=r"at least one weight must be above 0|greater than or equal to 0"):
        _recipe(sources=sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, "at least 1 item"),
        ({"sources": {"a": {"kind": "embedded", "domains": []}}}, "at least 1 item"),
        ({"sources": {"a": {"kind": "embedded", "domains": ["prose", "prose"]}}}, "must occur once"),
        ({"sources": {"a": {"kind": "text", "files": ["x"], "holdout": 1}}}, "less than 1"),
        ({"steps": [{"step": "keep-best", "share": 0}]}, "greater than 0"),
        ({"steps": [{"step": "deduplicate", "level": "exact", "threshold": 0.5}]}, "belongs to level 'near'"),
        ({"steps": [{"step": "tidy"}]}, "keep-best"),
        ({"tokens": 0}, "greater than 0"),
        ({"dimension": "taste"}, "domain mixture"),
        ({"color": "red"}, "Extra inputs"),
    ],
)
def test_what_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _recipe(**changes)


def test_weights_are_normalised_and_sources_without_weight_left_out() -> None:
    prose = {"kind": "embedded", "domains": ["prose"]}
    recipe = _recipe(sources={"a": prose, "b": {**prose, "weight": 3}, "c": {**prose, "weight": 0}})
    assert recipe.weights() == {"a": 0.25, "b": 0.75}


def test_the_family_of_a_recipe_without_one_is_its_name() -> None:
    assert _recipe().family_name == "r"
    assert _recipe(family="ladder").family_name == "ladder"


def test_a_synthetic_recipe_is_read() -> None:
    data = {"kind": "synthetic", "name": "s", "dimension": "domain mixture", "weights": {"a": 1, "b": 2}}
    recipe = TypeAdapter(Recipe).validate_json(json.dumps(data))
    assert isinstance(recipe, SyntheticRecipe)
    with pytest.raises(ValidationError, match="at least one weight"):
        TypeAdapter(Recipe).validate_json(json.dumps({**data, "weights": {"a": 0}}))


def test_a_validation_set_takes_no_weight() -> None:
    source = {"kind": "embedded", "domains": ["prose"]}
    assert ValidationSet.model_validate_json(json.dumps({"source": source})).max_document_bytes == 2000
    with pytest.raises(ValidationError, match="has no weight, but got 2"):
        ValidationSet.model_validate_json(json.dumps({"source": {**source, "weight": 2}}))


@pytest.mark.parametrize(("union", "key", "registry"), [(Step, "step", STEPS), (Source, "kind", SOURCES)])
def test_every_spec_is_registered_and_the_other_way_round(union: Any, key: str, registry: dict[str, Any]) -> None:
    schema = TypeAdapter(union).json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(registry)
    assert schema["discriminator"]["propertyName"] == key
