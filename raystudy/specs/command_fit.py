"""What a study may ask of models that a command trains, and of data that a command alone reads.

Asked once all else in the file is right. A command leaves losses, never weights that raystudy could read.
"""

from collections.abc import Iterator

from raystudy.specs.external import ExternalData, external_data
from raystudy.specs.metrics import WEIGHTED
from raystudy.specs.recipe import ExternalRecipe, ExternalSource
from raystudy.specs.study import StudyFeatures, StudySpec
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_PROBES = ("gradient-alignment", "sharpness")


def command_problems(study: StudySpec, document: YamlDocument) -> Iterator[Problem]:
    """Everything that is asked of a command and that it cannot give, one problem each."""

    def problem(path: KeyPath, rule: str, way_out: str = "") -> Problem:
        return Problem(document.position(path), show_path(path), rule, way_out)

    for path, rule, way_out in (*_data(study), *_models(study), *_protocols(study), *_metrics(study)):
        yield problem(path, rule, way_out)


Found = Iterator[tuple[KeyPath, str, str]]


def _data(study: StudySpec) -> Found:
    """Versions are all that tells external data apart."""
    seen: dict[ExternalData, str] = {}
    for section, recipes in (("recipes", study.recipes), ("baselines", study.baselines)):
        for place, recipe in enumerate(recipes):
            if isinstance(recipe, ExternalRecipe):
                yield from _twice(seen, external_data(recipe), recipe.name, (section, place, "version"))
    for name, validation in study.validation.items():
        if isinstance(validation.source, ExternalSource):
            data = external_data(validation.source)
            yield from _twice(seen, data, name, ("validation", name, "source", "version"))


def _twice(seen: dict[ExternalData, str], data: ExternalData, name: str, path: KeyPath) -> Found:
    if data in seen:
        rule = f"different data must have different versions, but {seen[data]!r} and {name!r} are both {data.version!r}"
        yield path, rule, "Let the version name the data too, such as `c4@2024-03`"
    seen[data] = name


def _models(study: StudySpec) -> Found:
    for name, model in study.models.items():
        if isinstance(model, StudyFeatures):
            continue
        if study.command_of(name) is None:
            if study.has_external_data:
                rule = f"external data are read by commands alone, but model {name!r} has engine {model.engine.kind!r}"
                yield ("models", name), rule, "Give it `engine: {kind: command, ...}`, or the study data of text"
            continue
        if study.settings_of(name).match_epochs is not None:
            rule = f"match_epochs is for models that raystudy trains, but {name!r} is trained by a command"
            yield ("models", name), rule, "Leave match_epochs out"
        if study.tasks:
            rule = f"tasks are put to models that raystudy trains, but {name!r} is trained by a command"
            yield ("tasks",), rule, "Leave the tasks out"


def _protocols(study: StudySpec) -> Found:
    for name, protocol in study.protocols.items():
        path: KeyPath = ("protocols", name)
        if protocol.kind == "likeness" and study.has_external_data:
            yield path, "likeness counts text that raystudy holds, but this study has external data", "Leave it out"
        model = getattr(protocol, "model", None)
        if model is None or study.command_of(model) is None:
            continue
        if protocol.kind in _PROBES:
            rule = f"a probe reads weights of raystudy's own, but model {model!r} is trained by a command"
            yield path, rule, "Leave the protocol out"
        for key in ("readout", "branch"):
            if getattr(protocol, key, None) is not None:
                rule = f"{key} is for models that raystudy trains, but {model!r} is trained by a command"
                yield (*path, key), rule, "Leave it out; `step` and `at_steps` may be asked of a command"


def _metrics(study: StudySpec) -> Found:
    """Means over all tokens need to know how many there are."""
    names = [("primary_metric", study.comparison.primary_metric)]
    names += [("metrics", metric) for metric in study.comparison.metrics]
    outside = [name for name, validation in study.validation.items() if isinstance(validation.source, ExternalSource)]
    for key, metric in names if outside else ():
        if metric in WEIGHTED.values():
            rule = f"{metric!r} needs the sizes of all validation sets, but {outside[0]!r} is external"
            yield ("comparison", key), rule, "Use the mean over sets"
