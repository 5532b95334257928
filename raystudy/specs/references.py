"""Rules between the sections of a study file: names that must exist, occur once, or fit together.

Works on the plain data, not on checked specs, so that these problems are reported together with the
wrong types and unknown keys of the same file.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from raystudy.specs.budgets import budget_problems
from raystudy.specs.epochs import TARGET
from raystudy.specs.metrics import known_metrics
from raystudy.specs.probe_references import probe_problems
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_RECIPE_LISTS = ("recipes", "baselines")


def reference_problems(document: YamlDocument) -> list[Problem]:
    """Every broken reference of the study in `document`."""
    rules = (
        _recipes,
        _kinds,
        _domains,
        _protocols,
        probe_problems,
        _truth,
        _contrast,
        _metrics,
        _tasks,
        _models,
        _match_epochs,
        budget_problems,
    )
    return [problem for rule in rules for problem in rule(document)]


def _section(document: YamlDocument, name: str) -> dict[str, Any]:
    value = document.data.get(name)
    return value if isinstance(value, dict) else {}


def _recipe_maps(document: YamlDocument, sections: Sequence[str] = _RECIPE_LISTS) -> Iterator[tuple[KeyPath, Any]]:
    """Every recipe given as a map, with its path."""
    for section in sections:
        listed = document.data.get(section)
        for index, recipe in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(recipe, dict):
                yield (section, index), recipe


def _recipe_names(document: YamlDocument, sections: Sequence[str] = _RECIPE_LISTS) -> list[str]:
    names = [recipe.get("name") for _, recipe in _recipe_maps(document, sections)]
    return [name for name in names if isinstance(name, str)]


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str = "") -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)


def _unknown(document: YamlDocument, path: KeyPath, noun: str, value: Any, known: list[str]) -> Iterator[Problem]:
    if isinstance(value, str) and value not in known:
        matches = difflib.get_close_matches(value, known, n=1)
        way_out = f"Did you mean '{matches[0]}'?" if matches else f"Known: {', '.join(dict.fromkeys(known)) or 'none'}"
        yield _problem(document, path, f"must be the name of a {noun}, but got {value!r}", way_out)


def _recipes(document: YamlDocument) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, recipe in _recipe_maps(document):
        name = recipe.get("name")
        if isinstance(name, str):
            if name in seen:
                rule = f"every recipe's name must occur once, but {name!r} occurs again"
                yield _problem(document, (*path, "name"), rule)
            seen.add(name)
    recipes = document.data.get("recipes")
    if isinstance(recipes, list) and len(recipes) == 1:
        rule = "at least two recipes must be given to compare, but got one"
        yield _problem(document, ("recipes",), rule, "Add a second recipe")


def _kinds(document: YamlDocument) -> Iterator[Problem]:
    """A study is about text or about synthetic domains, as a whole: recipes, validation sets and models."""
    is_synthetic = isinstance(document.data.get("synthetic"), dict)
    topic = "has a section `synthetic`" if is_synthetic else "has no section `synthetic`"
    found: list[tuple[KeyPath, str, Any]] = [(path, "recipe", recipe) for path, recipe in _recipe_maps(document)]
    for name, validation in _section(document, "validation").items():
        source = validation.get("source") if isinstance(validation, dict) else None
        found.append((("validation", name, "source"), "source of a validation set", source))
    found += [(("models", name), "model", model) for name, model in _section(document, "models").items()]
    for path, noun, value in found:
        kind = value.get("kind") if isinstance(value, dict) else None
        if isinstance(kind, str) and (kind in ("synthetic", "random-features")) != is_synthetic:
            rule = f"a {noun} must fit the study, which {topic}, but its kind is {kind!r}"
            yield _problem(document, path, rule, "Text and synthetic domains go in studies of their own")


def _domains(document: YamlDocument) -> Iterator[Problem]:
    listed = _section(document, "synthetic").get("domains")
    if not isinstance(listed, dict):
        return
    for path, recipe in _recipe_maps(document):
        weights = recipe.get("weights")
        for name in weights if isinstance(weights, dict) else ():
            yield from _unknown(document, (*path, "weights", name), "domain", name, list(listed))
    for name, validation in _section(document, "validation").items():
        source = validation.get("source") if isinstance(validation, dict) else None
        if isinstance(source, dict):
            at: KeyPath = ("validation", name, "source", "domain")
            yield from _unknown(document, at, "domain", source.get("domain"), list(listed))


def _protocols(document: YamlDocument) -> Iterator[Problem]:
    models, recipes = list(_section(document, "models")), _recipe_names(document, ("recipes",))
    for name, protocol in _section(document, "protocols").items():
        if not isinstance(protocol, dict):
            continue
        path: KeyPath = ("protocols", name)
        yield from _unknown(document, (*path, "model"), "model", protocol.get("model"), models)
        rule = protocol.get("lr")
        if isinstance(rule, dict):
            yield from _unknown(
                document, (*path, "lr", "baseline"), "recipe", rule.get("baseline"), _recipe_names(document)
            )
            yield from _unknown(document, (*path, "lr", "model"), "model", rule.get("model"), models)
        scores = protocol.get("scores")
        for recipe in scores if isinstance(scores, dict) else ():
            yield from _unknown(document, (*path, "scores", recipe), "recipe", recipe, recipes)
        if scores == "best-achievable" and not isinstance(document.data.get("synthetic"), dict):
            rule = "the best achievable loss must be known, but only that of synthetic recipes is"
            yield _problem(document, (*path, "scores"), rule, "Give the scores, recipe by recipe")
        if "@" in name:
            yield _problem(document, path, f"the name of a protocol must not hold '@', but got {name!r}")


def _truth(document: YamlDocument) -> Iterator[Problem]:
    protocols, truth = _section(document, "protocols"), document.data.get("truth")
    yield from _unknown(document, ("truth",), "protocol", truth, list(protocols))
    chosen = protocols.get(truth) if isinstance(truth, str) else None
    if isinstance(chosen, dict) and chosen.get("kind") == "lr-ladder":
        rule = f"the truth must give each recipe one score, but {truth!r} is an lr-ladder"
        yield _problem(document, ("truth",), rule, "Use a protocol of kind 'tuned', 'known' or 'table'")
    if isinstance(truth, str) and truth in protocols and len(protocols) == 1:
        yield _problem(document, ("protocols",), "at least one candidate must stand beside the truth, but got none")


def _contrast(document: YamlDocument) -> Iterator[Problem]:
    contrast = _section(document, "comparison").get("contrast")
    if not isinstance(contrast, list):
        return
    known: list[str] = []
    for name, protocol in _section(document, "protocols").items():
        if name != document.data.get("truth") and isinstance(protocol, dict):
            steps = protocol.get("at_steps")
            names = [f"{name}@step{step}" for step in steps] if isinstance(steps, list) else [name]
            known += names if protocol.get("kind") != "lr-ladder" else []
    for index, name in enumerate(contrast):
        yield from _unknown(document, ("comparison", "contrast", index), "candidate (no lr-ladder)", name, known)
    if len(contrast) == 2 and contrast[0] == contrast[1]:
        yield _problem(document, ("comparison", "contrast"), "the two candidates must differ")


def _metrics(document: YamlDocument) -> Iterator[Problem]:
    comparison, is_synthetic = _section(document, "comparison"), isinstance(document.data.get("synthetic"), dict)
    sets, tasks = (map(str, _section(document, section)) for section in ("validation", "tasks"))
    known = known_metrics(sets, tasks, is_synthetic=is_synthetic)
    yield from _unknown(document, ("comparison", "primary_metric"), "metric", comparison.get("primary_metric"), known)
    listed = comparison.get("metrics")
    for index, name in enumerate(listed if isinstance(listed, list) else ()):
        yield from _unknown(document, ("comparison", "metrics", index), "metric", name, known)
    if comparison.get("success") is not None and comparison.get("contrast") is None:
        rule = "success is the least difference of the contrast that counts, but there is no `contrast`"
        yield _problem(document, ("comparison", "success"), rule, "Name two candidates under `contrast:`")


def _tasks(document: YamlDocument) -> Iterator[Problem]:
    tasks, sets = _section(document, "tasks"), list(_section(document, "validation"))
    if tasks and isinstance(document.data.get("synthetic"), dict):
        rule = "tasks must be put to models of text, but this study has a section `synthetic`"
        yield _problem(document, ("tasks",), rule, "Leave the tasks out")
    for name, task in tasks.items():
        if isinstance(task, dict):
            at: KeyPath = ("tasks", name, "validation")
            yield from _unknown(document, at, "validation set", task.get("validation"), sets)


def _models(document: YamlDocument) -> Iterator[Problem]:
    models = _section(document, "models")
    kinds = [model.get("kind") for model in models.values() if isinstance(model, dict)]
    if any(kind in ("decoder", "external") for kind in kinds) and "training" not in document.data:
        yield _problem(document, ("training",), "the key 'training' must be given", "Add `training:` here")
    for name, model in models.items():
        if not isinstance(model, dict):
            continue
        override = model.get("training")
        batch = override.get("batch_tokens") if isinstance(override, dict) else None
        batch = batch if batch is not None else _section(document, "training").get("batch_tokens")
        context = model.get("context")
        if isinstance(batch, int) and isinstance(context, int) and context > 0 and batch % context:
            rule = f"batch_tokens must be a multiple of context, but got {batch} and {context}"
            yield _problem(document, ("models", name, "context"), rule)


def _match_epochs(document: YamlDocument) -> Iterator[Problem]:
    """`match_epochs` names a decoder of the study, or `target` for the truth's model."""
    models, protocols = _section(document, "models"), _section(document, "protocols")
    holders: list[KeyPath] = [("training",), *(("models", name, "training") for name in models)]
    for path in holders:
        holder = document.data
        for part in path:
            holder = holder.get(part) if isinstance(holder, dict) else None
        named = holder.get("match_epochs") if isinstance(holder, dict) else None
        at = (*path, "match_epochs")
        if named == TARGET and TARGET not in models:
            truth = document.data.get("truth")
            chosen = protocols.get(truth) if isinstance(truth, str) else None
            if isinstance(chosen, dict) and "model" not in chosen:
                rule = f"'target' stands for the truth's model, but the truth {truth!r} has none"
                yield _problem(document, at, rule, "Name a model of the study")
        else:
            yield from _unknown(document, at, "model", named, list(models))
