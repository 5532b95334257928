"""Reads a YAML 1.2 file into plain data and remembers where every value stood.

Only plain scalars, lists and maps: no tags, no objects. `1e-3` is a number and `no` is text. Several
defects are collected rather than raised one by one. Knows nothing of studies.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

KeyPath = tuple[str | int, ...]

_MAX_NODES = 200_000  # an alias bomb grows far beyond any study; assumption
_MOST_DIGITS = 1000  # of a whole number; Python refuses to read far longer ones
# YAML 1.2 core schema, section 10.3.2 of the specification.
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CORE_TAG = "tag:yaml.org,2002:"
_CORE_TYPES = ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "!", "seq", "map")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, order=True)
class Position:
    """Where a value stands: file as the user named it, line and column from 1 (0: not in a file)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One broken rule: where, which key, what must hold and what came, what to do."""

    position: Position
    key: str
    rule: str
    way_out: str = ""

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.position}: {key}{self.rule}" + (f". {self.way_out}" if self.way_out else "")


@dataclass
class YamlDocument:
    """Plain data, the position of each value by its path, and what was wrong while reading."""

    data: Any
    positions: dict[KeyPath, Position]
    problems: list[Problem] = field(default_factory=list)

    def position(self, path: KeyPath) -> Position:
        """The position of the value at `path`, or of the nearest value around it."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position("?"))


def show_path(path: KeyPath) -> str:
    """`protocols.tiny.seeds[0]` for ("protocols", "tiny", "seeds", 0)."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read_scalar(text: str) -> Any:
    """A plain YAML 1.2 scalar as Python sees it."""
    if text.lower() in _WORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text) and len(text) < _MOST_DIGITS:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return _SPECIAL.get(text.lower(), text)


def read_yaml(path: Path, shown: str | None = None) -> YamlDocument:
    """Read `path`; a missing or malformed file becomes a problem, never an exception."""
    shown = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return _failed(Position(shown), f"the file must be UTF-8 text, but {error.reason} at byte {error.start}")
    except OSError as error:
        return _failed(Position(shown), f"cannot be read: {error.strerror}", "Check the path")
    return parse_yaml(text, shown)


def parse_yaml(text: str, shown: str) -> YamlDocument:
    """Parse `text`, which came from the place named `shown`."""
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        position = Position(shown, mark.line + 1, mark.column + 1) if mark else Position(shown)
        return _failed(position, f"not valid YAML: {error.problem or error}")
    except (YAMLError, RecursionError, ValueError) as error:
        return _failed(Position(shown), f"not valid YAML: {error}")
    reader = _Reader(shown)
    data = reader.read(node, ()) if node is not None else None
    return YamlDocument(data, reader.positions, reader.problems)


def _failed(position: Position, rule: str, way_out: str = "") -> YamlDocument:
    return YamlDocument(None, {(): position}, [Problem(position, "", rule, way_out)])


class _Reader:
    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.positions: dict[KeyPath, Position] = {(): Position(shown)}
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def read(self, node: Node, path: KeyPath) -> Any:
        position = Position(self.shown, node.start_mark.line + 1, node.start_mark.column + 1)
        self.positions[path] = position
        if id(node) in self._open or len(self.positions) > _MAX_NODES:
            if not any("alias" in problem.rule for problem in self.problems):
                self.problems.append(Problem(position, show_path(path), "an alias must not hold itself or explode"))
            return None
        self._open.add(id(node))
        try:
            return self._read_open(node, path, position)
        finally:
            self._open.discard(id(node))

    def _read_open(self, node: Node, path: KeyPath, position: Position) -> Any:
        self._check(node, path, position)
        if isinstance(node, ScalarNode):
            is_text = node.style in ("'", '"', "|", ">") or str(node.tag) == f"{_CORE_TAG}str"
            return node.value if is_text else read_scalar(node.value)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, MappingNode)
        return self._read_mapping(node, path)

    def _check(self, node: Node, path: KeyPath, position: Position) -> None:
        """Find tags, and text that no file could hold; put together surrogate pairs, as JSON writes them."""
        if str(node.tag).removeprefix(_CORE_TAG) not in _CORE_TYPES:
            self.problems.append(Problem(position, show_path(path), f"tags are not allowed, but got {node.tag}"))
        if isinstance(node, ScalarNode) and not str(node.value).isascii():
            units = node.value.encode("utf-16-le", "surrogatepass")
            try:
                node.value = units.decode("utf-16-le")
            except UnicodeDecodeError:
                rule = f"text must be Unicode, but got half of a surrogate pair in {node.value[:40]!r}"
                self.problems.append(Problem(position, show_path(path), rule))
                node.value = units.decode("utf-16-le", "replace")

    def _read_mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            position = Position(self.shown, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, ScalarNode):
                self.problems.append(Problem(position, show_path(path), "a key must be text, not a list or a map"))
                continue
            self._check(key_node, path, position)
            key = str(key_node.value)
            if key in result:
                rule = f"every name must occur once, but {key!r} occurs again"
                self.problems.append(Problem(position, show_path((*path, key)), rule, "Rename or remove one"))
                continue
            result[key] = self.read(value_node, (*path, key))
            self.positions[(*path, key)] = position
        return result
