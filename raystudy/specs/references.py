"""Rules between the sections of a study file: names that must exist, occur once, or fit together.

Works on the plain data, not on checked specs, so that these problems are reported together with the
wrong types and unknown keys of the same file.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_WITH_RUNS = ("tuned", "reduced-lr", "standard-lr", "lr-ladder")


def reference_problems(document: YamlDocument) -> list[Problem]:
    """Every broken reference of the study in `document`."""
    rules = (_recipes, _protocols, _truth, _contrast, _primary_metric, _models)
    return [problem for rule in rules for problem in rule(document)]


def _section(document: YamlDocument, name: str) -> dict[str, Any]:
    value = document.data.get(name)
    return value if isinstance(value, dict) else {}


def _recipe_names(document: YamlDocument) -> list[Any]:
    recipes = document.data.get("recipes")
    return [r.get("name") for r in recipes if isinstance(r, dict)] if isinstance(recipes, list) else []


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str = "") -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)


def _unknown(document: YamlDocument, path: KeyPath, noun: str, value: Any, known: list[str]) -> Iterator[Problem]:
    if isinstance(value, str) and value not in known:
        matches = difflib.get_close_matches(value, known, n=1)
        way_out = f"Did you mean '{matches[0]}'?" if matches else f"Known: {', '.join(dict.fromkeys(known)) or 'none'}"
        yield _problem(document, path, f"must be the name of a {noun}, but got {value!r}", way_out)


def _recipes(document: YamlDocument) -> Iterator[Problem]:
    recipes = document.data.get("recipes")
    if not isinstance(recipes, list):
        return
    seen: set[str] = set()
    for index, recipe in enumerate(recipes):
        name = recipe.get("name") if isinstance(recipe, dict) else None
        if isinstance(name, str):
            if name in seen:
                path: KeyPath = ("recipes", index, "name")
                yield _problem(document, path, f"every recipe's name must occur once, but {name!r} occurs again")
            seen.add(name)
        if isinstance(recipe, dict) and recipe.get("kind") == "synthetic":
            rule = "recipes of kind 'synthetic' cannot be built by this version of raystudy"
            yield _problem(document, ("recipes", index), rule, "Use recipes of kind 'text'")
    if len(recipes) == 1:
        rule = "at least two recipes must be given to compare, but got one"
        yield _problem(document, ("recipes",), rule, "Add a second recipe")


def _protocols(document: YamlDocument) -> Iterator[Problem]:
    models, recipes = list(_section(document, "models")), [n for n in _recipe_names(document) if isinstance(n, str)]
    for name, protocol in _section(document, "protocols").items():
        if not isinstance(protocol, dict):
            continue
        path: KeyPath = ("protocols", name)
        yield from _unknown(document, (*path, "model"), "model", protocol.get("model"), models)
        rule = protocol.get("lr")
        if isinstance(rule, dict):
            yield from _unknown(document, (*path, "lr", "baseline"), "recipe", rule.get("baseline"), recipes)
        scores = protocol.get("scores")
        for recipe in scores if isinstance(scores, dict) else ():
            yield from _unknown(document, (*path, "scores", recipe), "recipe", recipe, recipes)
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
            known += [name] if protocol.get("kind") != "lr-ladder" else []
    for index, name in enumerate(contrast):
        yield from _unknown(document, ("comparison", "contrast", index), "candidate (no lr-ladder)", name, known)
    if len(contrast) == 2 and contrast[0] == contrast[1]:
        yield _problem(document, ("comparison", "contrast"), "the two candidates must differ")


def _primary_metric(document: YamlDocument) -> Iterator[Problem]:
    comparison, known = _section(document, "comparison"), ["loss"]
    known += [f"loss/{name}" for name in _section(document, "validation")]
    yield from _unknown(document, ("comparison", "primary_metric"), "metric", comparison.get("primary_metric"), known)
    if comparison.get("success") is not None and comparison.get("contrast") is None:
        rule = "success is the least difference of the contrast that counts, but there is no `contrast`"
        yield _problem(document, ("comparison", "success"), rule, "Name two candidates under `contrast:`")


def _models(document: YamlDocument) -> Iterator[Problem]:
    used = {
        protocol.get("model"): name
        for name, protocol in _section(document, "protocols").items()
        if isinstance(protocol, dict) and isinstance(protocol.get("model"), str) and protocol.get("kind") in _WITH_RUNS
    }
    for name, model in _section(document, "models").items():
        if not isinstance(model, dict):
            continue
        if model.get("kind") == "random-features" and name in used:
            rule = "models of kind 'random-features' cannot be trained by this version of raystudy"
            yield _problem(document, ("models", name), rule, "Use a model of kind 'decoder'")
        override = model.get("training")
        batch = override.get("batch_tokens") if isinstance(override, dict) else None
        batch = batch if batch is not None else _section(document, "training").get("batch_tokens")
        context = model.get("context")
        if isinstance(batch, int) and isinstance(context, int) and context > 0 and batch % context:
            rule = f"batch_tokens must be a multiple of context, but got {batch} and {context}"
            yield _problem(document, ("models", name, "context"), rule)
