"""From a study file on disk to a checked `StudySpec`: joins catalogues and search spaces, applies `--set`.

All problems of all files are reported at once, each with file, line, key, rule, value and way out.
"""

import copy
import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raystudy.errors import SpecError
from raystudy.specs.fit import fit_problems
from raystudy.specs.point_settings import space_problems
from raystudy.specs.point_steps import point_step_problems
from raystudy.specs.presets import expand_presets
from raystudy.specs.references import reference_problems
from raystudy.specs.study import StudySpec
from raystudy.specs.validation_messages import data_path, problems_of
from raystudy.specs.yaml_file import KeyPath, Position, Problem, YamlDocument, parse_yaml, read_yaml, show_path


@dataclass(frozen=True)
class LoadedStudy:
    """A checked study, the path and the text it came from, the overrides that were applied, and all files read."""

    spec: StudySpec
    path: Path
    text: str
    overrides: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def load_study(path: Path, overrides: Sequence[str] = ()) -> LoadedStudy:
    """Read and check a study file.

    Raises:
        SpecError: with one line per problem.
    """
    document = read_yaml(path)
    if not document.problems and not isinstance(document.data, dict):
        document.problems.append(Problem(Position(str(path)), "", "a study must be a map of sections, such as `name:`"))
    if isinstance(document.data, dict):
        # What the file itself holds can be overridden first, what catalogues and spaces bring only once joined.
        later = [override for override in overrides if not _apply_override(document, override, is_last_chance=False)]
        _join_catalogues(document, path.parent)
        _join_spaces(document, path.parent)
        for override in later:
            _apply_override(document, override, is_last_chance=True)
        expand_presets(document)
        _resolve_paths(document, path.parent)
    spec = _validate(document)
    if document.problems or spec is None:
        raise SpecError(_listing(path, document.problems))
    read = {Path(position.file) for position in document.positions.values() if position.line}
    files = {path, *(path.parent / file for file in spec.catalogues), *filter(is_file, read)}
    return LoadedStudy(spec, path, path.read_text(encoding="utf-8"), tuple(overrides), tuple(sorted(files)))


def _listing(path: Path, problems: list[Problem]) -> str:
    ordered = sorted(problems, key=lambda problem: (problem.position, problem.key))
    lines = list(dict.fromkeys(str(problem) for problem in ordered))
    return f"{path}: {len(lines)} problem{'s' if len(lines) != 1 else ''}\n" + "\n".join(f"  {line}" for line in lines)


def _validate(document: YamlDocument) -> StudySpec | None:
    if not isinstance(document.data, dict):
        return None
    spec, data = None, copy.deepcopy(document.data)
    while spec is None:
        try:
            spec = StudySpec.model_validate_json(_as_json(data))
        except ValidationError as error:
            document.problems.extend(problems_of(error, StudySpec, document))
            if not _drop_unknown_keys(error, data):
                break
    document.problems.extend(reference_problems(document))
    if spec is not None and not document.problems:
        document.problems.extend(fit_problems(spec, document))
    if spec is not None and not document.problems:
        document.problems.extend(space_problems(spec, document))
    if spec is not None and not document.problems:
        document.problems.extend(point_step_problems(spec, document))
    return spec


def _drop_unknown_keys(error: ValidationError, data: Any) -> bool:
    """Drop what was reported as unknown, so that rules which pydantic skipped beside it are checked too."""
    unknown = [details["loc"] for details in error.errors() if details["type"] == "extra_forbidden"]
    for loc in unknown:
        path = data_path(loc, data)
        holder = data
        for part in path[:-1]:
            holder = holder[part]
        del holder[path[-1]]
    return bool(unknown)


def _as_json(data: Any) -> str:
    return json.dumps(data, default=str)  # NaN and Infinity stay: pydantic reads and the fields refuse them


def _splice(document: YamlDocument, at: KeyPath, other: YamlDocument, path: KeyPath, value: Any) -> None:
    """Put `value`, found at `path` in `other`, at `at` in `document`, with its positions."""
    parent = document.data
    for part in at[:-1]:
        parent = parent[part]
    parent[at[-1]] = value
    for key, position in other.positions.items():
        if key[: len(path)] == path and len(key) > len(path):
            document.positions[at + key[len(path) :]] = position


def _apply_override(document: YamlDocument, override: str, *, is_last_chance: bool) -> bool:
    """Apply `key=value`; False where the key leads through a name that a joined file will replace.

    A section that the file leaves out is made; the study's check then says whether there is such a key.
    """
    position = Position(f"--set {override}")
    key, equals, text = override.partition("=")
    if not equals or not key:
        document.problems.append(Problem(position, "", "must be key=value", "For example --set training.steps=100"))
        return True
    target: Any = document.data
    path: KeyPath = ()
    *sections, last = key.split(".")
    for part in sections:
        step = _find(target, part)
        if step is None and isinstance(target, dict):
            step, target[part] = part, {}
            document.positions[*path, part] = position
        if step is None:
            if is_last_chance:
                rule = "no such key in the study"
                document.problems.append(Problem(position, show_path((*path, part)), rule, "Check its spelling"))
            return is_last_chance
        path, target = (*path, step), target[step]
    return _set_value(document, target, path, last, parse_yaml(text, position.file), is_last_chance)


def _set_value(
    document: YamlDocument, target: Any, path: KeyPath, last: str, value: YamlDocument, is_last_chance: bool
) -> bool:
    found = _find(target, last)
    step = last if found is None and isinstance(target, dict) else found
    if step is None:
        if is_last_chance:
            rule = "no such key in the study"
            document.problems.append(Problem(value.position(()), show_path((*path, last)), rule, "Check its spelling"))
        return is_last_chance
    document.problems.extend(value.problems)
    at = (*path, step)
    document.positions = {key: where for key, where in document.positions.items() if key[: len(at)] != at}
    document.positions[at] = Position(value.position(()).file)
    target[step] = value.data
    return True


def _find(target: Any, part: str) -> str | int | None:
    """The key or index of `part`: lists by number or by the `name` of an item."""
    if isinstance(target, dict):
        return part if part in target else None
    if isinstance(target, list):
        if part.isascii() and part.isdigit() and len(part) < 9 and int(part) < len(target):
            return int(part)
        names = [item.get("name") if isinstance(item, dict) else item for item in target]
        return names.index(part) if part in names else None
    return None


def _join_catalogues(document: YamlDocument, folder: Path) -> None:
    """Replace recipes given by name with their text from the catalogues."""
    files = document.data.get("catalogues", [])
    if not isinstance(files, list):
        return
    known: dict[str, tuple[YamlDocument, KeyPath, Any]] = {}
    for index, file in enumerate(files):
        if isinstance(file, str):
            known.update(_read_catalogue(document, folder / file, ("catalogues", index)))
    for section in ("recipes", "baselines"):
        recipes = document.data.get(section)
        if isinstance(recipes, list):
            _join_recipes(document, section, recipes, known)


def _join_recipes(
    document: YamlDocument, section: str, recipes: list[Any], known: dict[str, tuple[YamlDocument, KeyPath, Any]]
) -> None:
    for index, recipe in enumerate(recipes):
        at: KeyPath = (section, index)
        if isinstance(recipe, str) and recipe in known:
            other, path, value = known[recipe]
            _splice(document, at, other, path, value)
        elif isinstance(recipe, str):
            rule = f"must be a recipe of a catalogue or a map, but got {recipe!r}"
            way_out = f"Known: {', '.join(known)}" if known else "Name a file under `catalogues:`"
            document.problems.append(Problem(document.position(at), show_path(at), rule, way_out))


def _read_catalogue(document: YamlDocument, path: Path, at: KeyPath) -> dict[str, tuple[YamlDocument, KeyPath, Any]]:
    other = _read_beside(document, path, at)
    for key in other.data if isinstance(other.data, dict) else ():
        if key != "recipes":
            document.problems.append(Problem(other.position((key,)), key, "is not a known key of a catalogue"))
    listed = other.data.get("recipes") if isinstance(other.data, dict) else None
    if not other.problems and not isinstance(listed, list):
        rule = f"must name a catalogue with a list `recipes:`, but {path} has none"
        document.problems.append(Problem(document.position(at), show_path(at), rule))
    found: dict[str, tuple[YamlDocument, KeyPath, Any]] = {}
    for index, recipe in enumerate(listed if isinstance(listed, list) else []):
        name = recipe.get("name") if isinstance(recipe, dict) else None
        if isinstance(name, str):
            if name in found:
                where = other.position(("recipes", index))
                rule = f"every name must occur once, but {name!r} occurs again"
                document.problems.append(Problem(where, "name", rule))
            _resolve_files(recipe, path.parent)
            found[name] = (other, ("recipes", index), recipe)
    return found


def _join_spaces(document: YamlDocument, folder: Path) -> None:
    """Replace search spaces given by path with the files' content."""
    protocols = document.data.get("protocols")
    for name, protocol in (protocols if isinstance(protocols, dict) else {}).items():
        holders: list[tuple[KeyPath, Any]] = [(("protocols", name), protocol)]
        if isinstance(protocol, dict):
            holders.append((("protocols", name, "lr"), protocol.get("lr")))
        for path, holder in holders:
            if isinstance(holder, dict) and isinstance(holder.get("space"), str):
                at: KeyPath = (*path, "space")
                other = _read_beside(document, folder / holder["space"], at)
                # After a problem with the file a space that is right stands in: one cause, one message.
                data = {"lr": {"grid": [1.0]}} if other.problems else other.data
                _splice(document, at, other, (), data)


def _read_beside(document: YamlDocument, path: Path, at: KeyPath) -> YamlDocument:
    if not is_file(path):
        problem = Problem(document.position(at), show_path(at), f"must be a file, but {path} is not there")
        document.problems.append(problem)
        return YamlDocument(None, {}, [problem])
    other = read_yaml(path)
    document.problems.extend(other.problems)
    return other


def is_file(path: Path) -> bool:
    """Whether a file is there; False too for a path that cannot be one (too long, not allowed to look)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _resolve_paths(document: YamlDocument, folder: Path) -> None:
    """Make the files of sources, tables and tokenizer independent of the working folder."""
    data = document.data
    for section in ("recipes", "baselines", "validation"):
        _resolve_files(data.get(section), folder)
    tasks = data.get("tasks")
    for task in (tasks if isinstance(tasks, dict) else {}).values():
        _resolve_files(task, folder)
        if isinstance(task, dict) and isinstance(task.get("include"), str):
            task["include"] = str((folder / task["include"]).resolve())
    protocols = data.get("protocols")
    for protocol in (protocols if isinstance(protocols, dict) else {}).values():
        if isinstance(protocol, dict) and protocol.get("kind") == "table" and isinstance(protocol.get("file"), str):
            protocol["file"] = str((folder / protocol["file"]).resolve())
    models = data.get("models")
    for model in (models if isinstance(models, dict) else {}).values():
        engine = model.get("engine") if isinstance(model, dict) else None
        if isinstance(engine, dict) and engine.get("kind") == "command" and isinstance(engine.get("folder", "."), str):
            engine["folder"] = str((folder / engine.get("folder", ".")).resolve())
    tokenizer = data.get("tokenizer")
    if isinstance(tokenizer, str) and tokenizer != "embedded":
        data["tokenizer"] = str((folder / tokenizer).resolve())


def _resolve_files(value: Any, folder: Path) -> None:
    if isinstance(value, list):
        for item in value:
            _resolve_files(item, folder)
    elif isinstance(value, dict):
        files = value.get("files")
        if value.get("kind") in ("text", "jsonl") and isinstance(files, list):
            # Only the pattern itself may match: a folder called `[v2]` is a folder.
            fixed = Path(glob.escape(str(folder.resolve())))
            value["files"] = [str(fixed / file) if isinstance(file, str) else file for file in files]
        for item in value.values():
            _resolve_files(item, folder)
