"""Rules between a study's probes and its other sections; on plain data, as all rules of `references`."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raystudy.specs.base import round_significant
from raystudy.specs.space import SearchSpace
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_OF_DECODERS = ("gradient-alignment", "sharpness")
_OF_TEXT = ("sharpness", "likeness")
_TRAINING = ("tuned", "reduced-lr", "standard-lr", "lr-ladder")
_EXACT_KEYS = ("kind", "model")
_PROBES = (*_OF_DECODERS, "likeness")


def probe_problems(document: YamlDocument) -> Iterator[Problem]:
    """What does not fit of every probe among the protocols."""
    for name, protocol in _section(document, "protocols").items():
        if not isinstance(protocol, dict):
            continue
        path: KeyPath = ("protocols", name)
        if protocol.get("kind") in _PROBES:
            yield from _judged(document, name)
        if isinstance(document.data.get("synthetic"), dict):
            yield from _synthetic(document, path, protocol)
        elif protocol.get("kind") in _OF_DECODERS:
            yield from _parametrisation(document, path, protocol)
            yield from _batches(document, path, protocol)
            if isinstance(protocol.get("at"), dict):
                yield from _checkpoint(document, (*path, "at"), protocol, protocol["at"])


def _section(document: YamlDocument, name: str) -> dict[str, Any]:
    value = document.data.get(name)
    return value if isinstance(value, dict) else {}


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str = "") -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)


def _synthetic(document: YamlDocument, path: KeyPath, protocol: Mapping[str, Any]) -> Iterator[Problem]:
    kind = protocol.get("kind")
    if kind in _OF_TEXT:
        rule = f"a probe of kind {kind!r} must be of a study about text, but this one has a section `synthetic`"
        yield _problem(document, (*path, "kind"), rule, "Leave the protocol out")
    more = [key for key in protocol if key not in _EXACT_KEYS] if kind == "gradient-alignment" else []
    if more:
        rule = f"gradient alignment of random-feature models is exact and has no settings, but got {', '.join(more)}"
        yield _problem(document, path, rule, "Leave them out")


def _judged(document: YamlDocument, name: str) -> Iterator[Problem]:
    """A probe has scores on the losses of validation sets alone: no verdict can rest on it by another metric."""
    comparison = _section(document, "comparison")
    metric, contrast = comparison.get("primary_metric", "loss"), comparison.get("contrast")
    if not isinstance(metric, str) or metric == "loss" or metric.startswith("loss/"):
        return
    rule = f"a probe has scores for 'loss' and 'loss/<validation set>' alone, but the primary metric is {metric!r}"
    if document.data.get("truth") == name:
        yield _problem(document, ("truth",), rule, "Choose another truth, or another primary metric")
    if isinstance(contrast, list) and name in contrast:
        at: KeyPath = ("comparison", "contrast", contrast.index(name))
        yield _problem(document, at, rule, "Contrast other candidates, or choose another primary metric")


def _parametrisation(document: YamlDocument, path: KeyPath, protocol: Mapping[str, Any]) -> Iterator[Problem]:
    model = _section(document, "models").get(str(protocol.get("model")))
    if isinstance(model, dict) and model.get("mup_base_width") is not None:
        named = repr(protocol["model"])
        rule = f"a probe of this kind takes one learning rate for all weights, but model {named} is under muP"
        yield _problem(document, (*path, "model"), rule, "Probe a model without `mup_base_width`")


def _batches(document: YamlDocument, path: KeyPath, protocol: Mapping[str, Any]) -> Iterator[Problem]:
    model = _section(document, "models").get(str(protocol.get("model")))
    context = model.get("context") if isinstance(model, dict) else None
    tokens = protocol.get("batch_tokens")
    if isinstance(tokens, int) and isinstance(context, int) and context > 0 and tokens % context:
        rule = f"batch_tokens must be a multiple of the model's context, but got {tokens} and {context}"
        yield _problem(document, (*path, "batch_tokens"), rule)


def _checkpoint(
    document: YamlDocument, path: KeyPath, probe: Mapping[str, Any], at: Mapping[str, Any]
) -> Iterator[Problem]:
    protocols, name = _section(document, "protocols"), at.get("protocol")
    trained = {n: p for n, p in protocols.items() if isinstance(p, dict) and p.get("kind") in _TRAINING}
    listed = document.data.get("recipes")
    recipes = [r.get("name") for r in (listed if isinstance(listed, list) else ()) if isinstance(r, dict)]
    if isinstance(at.get("recipe"), str) and at["recipe"] not in recipes:
        rule = f"must be the name of a recipe, but got {at['recipe']!r}"
        yield _problem(document, (*path, "recipe"), rule, f"Known: {', '.join(map(str, recipes))}")
    if not isinstance(name, str):
        return
    if name not in trained:
        rule = f"must be the name of a protocol that trains, but got {name!r}"
        yield _problem(document, (*path, "protocol"), rule, f"Known: {', '.join(trained) or 'none'}")
        return
    chosen = trained[name]
    if chosen.get("model") != probe.get("model"):
        rule = f"the probe's model must be that of {name!r}, but they are {probe.get('model')!r} and "
        yield _problem(document, path, f"{rule}{chosen.get('model')!r}")
    if (chosen["kind"] == "lr-ladder") != (at.get("lr") is not None):
        rule = "a checkpoint has an `lr` if its protocol is an lr-ladder, and only then"
        yield _problem(document, path, rule, f"{name!r} is of kind {chosen['kind']!r}")
    elif (rungs := _rungs(chosen)) and isinstance(at.get("lr"), int | float) and not _is_rung(at["lr"], rungs):
        rule = f"must be a learning rate of {name!r}, but got {at['lr']:g}"
        yield _problem(document, (*path, "lr"), rule, f"Known: {', '.join(f'{lr:g}' for lr in rungs)}")
    for field in ("at_steps", "readout"):
        if chosen.get(field) not in (None, "last"):
            rule = f"a probe reads the weights of one step as they were, but {name!r} has {field}"
            yield _problem(document, (*path, "protocol"), rule, "Name another protocol, and a `step` here if need be")
    theirs = _seeds(chosen)
    lacking = [seed for seed in _seeds(probe) if seed not in theirs]
    if lacking:
        rule = f"every seed of the probe must be one of {name!r}, whose seeds are {theirs}, but got {lacking}"
        yield _problem(document, (*path, "protocol"), rule, f"Give the probe seeds of {name!r}")


def _rungs(ladder: Mapping[str, Any]) -> tuple[float, ...]:
    """The learning rates of a ladder; none where its space is wrong, which is told elsewhere."""
    space = ladder.get("space")
    try:
        return SearchSpace.model_validate_json(json.dumps(space)).lrs()
    except (TypeError, ValueError):
        return ()


def _is_rung(lr: float, rungs: tuple[float, ...]) -> bool:
    return math.isfinite(lr) and round_significant(float(lr)) in map(round_significant, rungs)


def _seeds(protocol: Mapping[str, Any]) -> list[Any]:
    seeds = protocol.get("seeds", [0])
    return list(seeds) if isinstance(seeds, list | tuple) else []
