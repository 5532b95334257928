"""From a point of a search space to training settings; what models cannot sweep is told when a study is checked."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from raystudy.specs.point import Point
from raystudy.specs.protocol import LearningRateRule
from raystudy.specs.space import SearchSpace
from raystudy.specs.study import StudyFeatures, StudySpec
from raystudy.specs.training import TrainingOverride, TrainingSettings, resolve_settings
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_OF_OPTIMIZER = ("weight_decay", "beta1", "beta2")
_OF_SCHEDULE = ("warmup",)
_ANY_VOCABULARY = 2  # it has no say in what is asked here


def settings_at(settings: TrainingSettings, point: Point) -> TrainingSettings:
    """The training settings with what the point changes; its learning rate is no part of them.

    Raises:
        ValueError: the optimizer or schedule has no such setting, or the changed settings break a rule.
    """
    if not point.changes:
        return settings
    changes: dict[str, Any] = dict(point.changes)
    given: dict[str, Any] = {}
    for part, axes in (("optimizer", _OF_OPTIMIZER), ("schedule", _OF_SCHEDULE)):
        own = {axis: changes.pop(axis) for axis in axes if axis in changes}
        if own:
            given[part] = _changed(getattr(settings, part), part, own)
    return settings.overridden_by(TrainingOverride(**given, **changes))


def _changed(spec: Any, part: str, own: dict[str, float]) -> Any:
    fields = type(spec).model_fields
    lacking = [axis for axis in own if axis not in fields]
    if lacking:
        raise ValueError(f"{lacking[0]} can be swept where the {part} has it, but {spec.kind!r} has none")
    in_steps = {
        f"{axis}_steps": None for axis in own if f"{axis}_steps" in fields
    }  # the swept share stands in its place
    return type(spec)(**{**{name: getattr(spec, name) for name in fields}, **in_steps, **own})


def space_problems(study: StudySpec, document: YamlDocument) -> Iterator[Problem]:
    """Search spaces of the study that one of their models cannot be trained over."""
    for path, model, space in _spaces(study):
        if space.is_plain:
            continue
        if isinstance(study.models[model], StudyFeatures):
            axis = list(space.axes)[1]
            rule = f"a random-feature model has only learning rates to sweep, but the space of {model!r} has {axis!r}"
            yield _problem(document, (*path, axis), rule, "Leave it out, or give the model a space of its own")
            continue
        for changes in dict.fromkeys(point.changes for point in space.points()):
            message = _message(study, model, Point(1.0, changes))
            if message:
                yield _problem(document, path, f"every point must be possible for model {model!r}: {message}")
                break


def _spaces(study: StudySpec) -> Iterator[tuple[KeyPath, str, SearchSpace]]:
    """Every search space with the models that are trained over it."""
    for name, protocol in study.protocols.items():
        model, space = getattr(protocol, "model", None), getattr(protocol, "space", None)
        if model is not None and space is not None:
            yield ("protocols", name, "space"), model, space
        rule = getattr(protocol, "lr", None)
        if isinstance(rule, LearningRateRule) and rule.space is not None:
            models = [rule.model or model, *([model] if rule.with_settings else [])]
            for trained in dict.fromkeys(models):
                yield ("protocols", name, "lr", "space"), str(trained), rule.space


def _message(study: StudySpec, model: str, point: Point) -> str:
    """Why the model cannot be trained at this point; empty where it can."""
    try:
        settings = settings_at(study.settings_of(model), point)
        resolve_settings(settings, study.sequence_model(model).shape, _ANY_VOCABULARY, point.lr)
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    except ValueError as error:
        return str(error)
    return ""


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str = "") -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)
