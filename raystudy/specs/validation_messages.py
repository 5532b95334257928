"""Turns pydantic's errors into problems with a position, a rule, the value and a way out."""

import difflib
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from raystudy.specs.base import Spec
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_SHOWN_CHARACTERS = 80
_WRONG_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
}


def problems_of(error: ValidationError, model: type[Spec], document: YamlDocument) -> list[Problem]:
    """One problem per error of `error`, which came from checking `document.data` against `model`."""
    schema = model.model_json_schema()
    found = [details for details in error.errors(include_url=False) if not _is_echo(details)]
    return [_problem(details, schema, document) for details in found]


def _is_echo(details: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because some of its items are wrong, which it tells besides."""
    least = details.get("ctx", {}).get("min_length", 0)
    return (
        details["type"] == "too_short" and isinstance(details["input"], list | dict) and len(details["input"]) >= least
    )


def _problem(details: ErrorDetails, schema: dict[str, Any], document: YamlDocument) -> Problem:
    path = data_path(details["loc"], document.data, is_missing=details["type"] == "missing")
    rule, way_out = _rule(details, path, schema)
    return Problem(document.position(path), show_path(path), rule, way_out)


def data_path(loc: tuple[int | str, ...], data: Any, *, is_missing: bool = False) -> KeyPath:
    """The path in the data: pydantic's location without the tags of unions."""
    path: KeyPath = ()
    for index, part in enumerate(loc):
        is_key = isinstance(data, dict) and part in data
        is_item = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_key or is_item:
            path, data = (*path, part), data[part]
        elif is_missing and index == len(loc) - 1:
            path = (*path, part)
    return path


def _rule(details: ErrorDetails, path: KeyPath, schema: dict[str, Any]) -> tuple[str, str]:
    kind, value = details["type"], _shown(details["input"])
    context = details.get("ctx", {})
    if kind == "missing" and isinstance(details["loc"][-1], int):
        return f"must be a list of at least {details['loc'][-1] + 1} items, but got {value}", ""
    if kind == "missing":
        return f"the key {path[-1]!r} must be given", f"Add `{path[-1]}:` here"
    if kind == "extra_forbidden":
        return _unknown_key(str(path[-1]), _known_keys(details["loc"][:-1], schema))
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        key = str(context["discriminator"]).strip("'")
        return f"{key!r} must be one of {', '.join(tags)}, but got '{context['tag']}'", _closest(
            str(context["tag"]), tags
        )
    if kind == "union_tag_not_found":
        key = str(context["discriminator"]).strip("'")
        return f"the key {key!r} must be given", f"Add `{key}:` here"
    wanted = {
        **_WRONG_TYPES,
        "literal_error": str(context.get("expected")),
        "finite_number": "a finite number",
        "too_short": f"a list of at least {context.get('min_length')} item(s)",
        "too_long": f"a list of at most {context.get('max_length')} item(s)",
    }
    if kind in wanted:
        return f"must be {wanted[kind]}, but got {value}", ""
    message = details["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    if kind == "value_error" and ("but got" in message or isinstance(details["input"], dict)):
        return message, ""
    return f"{message}, but got {value}", ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _unknown_key(key: str, known: list[str]) -> tuple[str, str]:
    way_out = _closest(key, known) or (f"Known keys: {', '.join(known)}" if known else "")
    return f"{key!r} is not a known key", way_out


def _closest(word: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean '{matches[0]}'?" if matches else ""


def _known_keys(loc: tuple[int | str, ...], schema: dict[str, Any]) -> list[str]:
    """The keys that the model at `loc` knows, found by walking its JSON schema."""
    node = schema
    for part in loc:
        node = _child(_resolve(node, schema), part, schema)
    node = _resolve(node, schema)
    for option in node.get("anyOf", []):
        if "properties" in _resolve(option, schema):
            node = _resolve(option, schema)
    return list(node.get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else node


def _child(node: dict[str, Any], part: int | str, schema: dict[str, Any]) -> dict[str, Any]:
    options = [_resolve(option, schema) for option in node.get("anyOf", [])]
    for candidate in [node, *options]:
        if part in candidate.get("properties", {}):
            return candidate["properties"][part]  # type: ignore[no-any-return]
        mapping = candidate.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            return {"$ref": mapping[part]}
        if isinstance(part, int) and isinstance(candidate.get("items"), dict):
            return candidate["items"]  # type: ignore[no-any-return]
        if isinstance(candidate.get("additionalProperties"), dict):
            return candidate["additionalProperties"]  # type: ignore[no-any-return]
    return node
