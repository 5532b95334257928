"""JSON Schemas of a study's files (study, catalogue, search space), by which editors complete and check.

Made from the models, then loosened where a file may say less than the joined study holds: a recipe may be the name of
one in a catalogue, a space the path of its file, a learning-rate rule a plain number, a decoder the name of a preset.
Rules between fields are not in a schema; `raystudy check` is the judge. That of a trainer's result.json is beside them.
"""

from typing import Any

from pydantic import Field

from raystudy.specs.base import Spec
from raystudy.specs.command_result import CommandResult
from raystudy.specs.presets import PRESETS
from raystudy.specs.recipe import Recipe
from raystudy.specs.space import SearchSpace
from raystudy.specs.study import StudySpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_RECIPE_LISTS = ("recipes", "baselines")


class Catalogue(Spec):
    """Recipes that studies name."""

    recipes: tuple[Recipe, ...] = Field(min_length=1)


FILE_KINDS: dict[str, type[Spec]] = {
    "study": StudySpec,
    "catalogue": Catalogue,
    "space": SearchSpace,
    "result": CommandResult,
}


def file_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of the file `kind`."""
    model = FILE_KINDS[kind]
    schema = _without_titles(model.model_json_schema())
    definitions = schema.get("$defs", {})
    if model is StudySpec:
        _let_recipes_be_names(schema["properties"])
        definitions["StudyDecoder"] = _or_preset(definitions["StudyDecoder"])
    for definition in definitions.values():
        _let_space_be_a_path(definition.get("properties", {}))
    if "LearningRateRule" in definitions:
        definitions["LearningRateRule"] = _or_number(definitions["LearningRateRule"])
    return {"$schema": DIALECT, "title": f"raystudy {kind}", **schema}


def _without_titles(node: Any) -> Any:
    """Titles repeat the keys; a property that is called `title` is a map and stays."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
        return {key: _without_titles(value) for key, value in kept.items()}
    return [_without_titles(item) for item in node] if isinstance(node, list) else node


def _let_recipes_be_names(properties: dict[str, Any]) -> None:
    name = {"type": "string", "description": "the name of a recipe in one of the catalogues"}
    for section in _RECIPE_LISTS:
        if section in properties:
            properties[section]["items"] = {"anyOf": [name, properties[section]["items"]]}


def _let_space_be_a_path(properties: dict[str, Any]) -> None:
    path = {"type": "string", "description": "the path of a search space, relative to this file"}
    if "space" in properties:
        space = properties["space"]
        properties["space"] = (
            {**space, "anyOf": [path, *space["anyOf"]]} if "anyOf" in space else {"anyOf": [path, space]}
        )


def _or_number(rule: dict[str, Any]) -> dict[str, Any]:
    number = {"type": "number", "exclusiveMinimum": 0, "description": "an absolute learning rate"}
    return {"description": rule.get("description", ""), "anyOf": [number, {**rule, "description": "a rule"}]}


def _or_preset(decoder: dict[str, Any]) -> dict[str, Any]:
    """A decoder whose fields are given, or filled in by a preset."""
    preset = {"enum": list(PRESETS), "description": "fills in the fields that are not given"}
    needed = [{"required": decoder["required"]}, {"required": ["preset"]}]
    kept = {key: value for key, value in decoder.items() if key != "required"}
    return {**kept, "properties": {"preset": preset, **decoder["properties"]}, "anyOf": needed}
