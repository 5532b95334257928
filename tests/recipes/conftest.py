"""The catalogue of embedded recipes, and a storage on which all of it is built once per session."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from raystudy.recipes.build import build_recipe
from raystudy.specs.recipe import Recipe, TextRecipe

CATALOGUE = Path(__file__).parents[2] / "search_spaces" / "recipes" / "embedded.yaml"


@pytest.fixture(scope="session")
def catalogue() -> dict[str, TextRecipe]:
    rows = YAML(typ="safe", pure=True).load(CATALOGUE)["recipes"]
    recipes = TypeAdapter(list[Recipe]).validate_json(json.dumps(rows))
    assert all(isinstance(recipe, TextRecipe) for recipe in recipes)
    return {recipe.name: recipe for recipe in recipes if isinstance(recipe, TextRecipe)}


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded-storage")


@pytest.fixture(scope="session")
def built(catalogue: dict[str, TextRecipe], storage: Path) -> dict[str, str]:
    """Recipe name -> digest of its view on `storage`."""
    return {name: build_recipe(recipe, "embedded", storage) for name, recipe in catalogue.items()}
