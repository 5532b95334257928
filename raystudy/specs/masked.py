"""What of a study may be passed on: the names of a trainer's variables, not their values (`engine.environment`)."""

from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MASK = "(masked)"  # a plain scalar of YAML
_LEFT_OUT = "# left out: it is no YAML, so that values of engine.environment cannot be told in it\n"
_OVERRIDE = "# --set "  # how a study's copy on storage notes an override


def masked_study(stored: Any) -> Any:
    """What study.json holds, with every value of an `environment` of an `engine` masked; anything else as it is."""
    if isinstance(stored, list):
        return [masked_study(item) for item in stored]
    if not isinstance(stored, Mapping):
        return stored
    masked = {key: masked_study(value) for key, value in stored.items()}
    engine = masked.get("engine")
    if isinstance(engine, dict) and isinstance(engine.get("environment"), dict):
        engine["environment"] = dict.fromkeys(engine["environment"], MASK)
    return masked


def masked_text(text: str) -> str:
    """A study file, with the overrides noted below it, where every value of an `environment` is masked.

    All else stays as it was written, comments too. Of an override that names an environment the whole value is masked.
    """
    try:
        top = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, RecursionError, ValueError):
        return _LEFT_OUT
    places = {(value.start_mark.index, value.end_mark.index) for value in _values(top, set())}
    for begin, end in sorted(places, reverse=True):
        text = text[:begin] + MASK + ("\n" if text[begin:end].endswith("\n") else "") + text[end:]
    return "".join(map(_masked_override, text.splitlines(keepends=True)))


def _masked_override(line: str) -> str:
    if not (line.startswith(_OVERRIDE) and "environment" in line):
        return line
    return f"{line.partition('=')[0]}={MASK}\n"


def _values(node: Node | None, seen: set[int]) -> Iterator[ScalarNode]:
    """The values of every `environment` of an `engine`, behind aliases too."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for item in node.value:
            yield from _values(item, seen)
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == "engine":
                yield from _scalars(_child(value, "environment"))
            yield from _values(value, seen)


def _child(node: Node, name: str) -> Node | None:
    pairs = node.value if isinstance(node, MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _scalars(node: Node | None) -> Iterator[ScalarNode]:
    """The values of a mapping that are written out."""
    for _, value in node.value if isinstance(node, MappingNode) else ():
        if isinstance(value, ScalarNode) and value.end_mark.index > value.start_mark.index:
            yield value
