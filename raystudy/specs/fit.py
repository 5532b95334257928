"""Whether a study's models, settings and resources fit together: rules that need checked specs.

Asked once all else in the file is right; what a rule needs is then sure to be there.
"""

from collections.abc import Iterator

from pydantic import ValidationError

from raystudy.specs.command_fit import command_problems
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.reading import ScoredRun
from raystudy.specs.study import StudyFeatures, StudySpec
from raystudy.specs.training import resolve_settings
from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_PRECISIONS = {
    "torch": ("fp32", "tf32", "bf16-autocast", "bf16-weights"),
    "deepspeed": ("fp32", "tf32", "bf16-autocast", "bf16-master"),
}
_ANY_VOCABULARY, _ANY_LR = 2, 1.0  # neither has a say in what is asked here


def fit_problems(study: StudySpec, document: YamlDocument) -> list[Problem]:
    """Every setting that does not fit the rest, one problem each."""
    found: list[Problem] = []
    for name, model in study.models.items():
        if not isinstance(model, StudyFeatures):
            problems = (
                *_settings(study, name, document),
                *_resources(study, name, document),
                *_engine(study, name, document),
            )
            found += [problem for problem in problems if problem not in found]
    return [*found, *command_problems(study, document), *_budget(study, document)]


def _settings(study: StudySpec, name: str, document: YamlDocument) -> Iterator[Problem]:
    settings = study.settings_of(name)
    try:
        resolve_settings(settings, study.sequence_model(name).shape, _ANY_VOCABULARY, _ANY_LR)
    except ValidationError as error:
        for details in error.errors():
            rule = f"{details['msg'].removeprefix('Value error, ')} for model {name!r}"
            yield _problem(document, _place(study, name, "schedule"), rule, "Train longer, or shorten what is in steps")
    if settings.precision == "tf32" and study.command_of(name) is None and study.device_of(name) != "cuda":
        rule = f"tf32 must be computed on a GPU, but model {name!r} asks for none"
        yield _problem(document, _place(study, name, "precision"), rule, "Ask for a GPU, or use fp32")


def _budget(study: StudySpec, document: YamlDocument) -> Iterator[Problem]:
    """A budget of money must have a price for every kind of device that the study's runs take."""
    budget = study.budget
    if budget is None or budget.money is None or budget.prices is None:
        return
    prices: KeyPath = ("budget", "prices")
    if "cpu" in study.devices and budget.prices.cpu_core is None:
        rule = "a budget of money must have a price for CPU cores, on which runs are made here, but has none"
        yield _problem(document, prices, rule, "Add `cpu_core:`, what an hour of one core costs")
    if "cuda" in study.devices and not budget.prices.gpus:
        rule = "a budget of money must have a price for GPUs, on which runs are made here, but has none"
        yield _problem(document, prices, rule, "Add `gpus: {H100: ...}`, what an hour of one costs, by its name")


def _resources(study: StudySpec, name: str, document: YamlDocument) -> Iterator[Problem]:
    tokens, context = study.resources.micro_batch_tokens, study.sequence_model(name).context
    if study.command_of(name) is None and isinstance(tokens, int) and tokens < context:
        rule = f"must hold one sequence of {context} tokens (the context of model {name!r}), but got {tokens}"
        yield _problem(document, ("resources", "micro_batch_tokens"), rule)


def _engine(study: StudySpec, name: str, document: YamlDocument) -> Iterator[Problem]:
    if study.command_of(name) is not None:
        return  # whose trainer says itself what it can do
    engine, precision = study.decoder(name).engine, study.settings_of(name).precision
    fits = _PRECISIONS[engine.kind]
    if precision not in fits:
        rule = f"engine {engine.kind!r} of model {name!r} trains in one of {', '.join(fits)}, but got {precision!r}"
        yield _problem(document, _place(study, name, "precision"), rule)
    if not isinstance(engine, DeepSpeedEngine):
        return
    if study.models[name].resources is not None:
        rule = f"what a run takes must be said once, but model {name!r} has an engine of workers and resources"
        way_out = "Say it by engine.workers, engine.cpus_per_worker and engine.gpus_per_worker"
        yield _problem(document, ("models", name, "resources"), rule, way_out)
    context, tokens = study.decoder(name).context, engine.micro_batch_tokens
    if isinstance(tokens, int) and tokens < context:
        rule = f"must hold one sequence of {context} tokens, but got {tokens}"
        yield _problem(document, ("models", name, "engine", "micro_batch_tokens"), rule)
    sequences = study.settings_of(name).batch_tokens // context
    if sequences < engine.workers:
        rule = f"each worker must have a sequence of every batch, which holds {sequences}, but got {engine.workers}"
        yield _problem(document, ("models", name, "engine", "workers"), rule, "Ask for fewer workers or larger batches")
    yield from _whole_runs(study, name, document)


def _whole_runs(study: StudySpec, name: str, document: YamlDocument) -> Iterator[Problem]:
    """What is scored of a reference run: its weights as they are after some step, and no others."""
    for protocol, spec in study.protocols.items():
        if not isinstance(spec, ScoredRun) or getattr(spec, "model", None) != name:
            continue
        for field, value in (("readout", spec.readout), ("branch", spec.branch)):
            if value is not None:
                rule = f"weights of model {name!r}, which engine 'deepspeed' trains, are read as they are after a step"
                yield _problem(
                    document,
                    ("protocols", protocol, field),
                    f"{rule}, but got a {field}",
                    "Leave it out, or use `step`",
                )


def _place(study: StudySpec, name: str, field: str) -> KeyPath:
    """Where the training setting `field` of a model stands: with the model if it has its own."""
    own = study.sequence_model(name).training
    has_own = own is not None and field in own.model_fields_set
    return ("models", name, "training", field) if has_own else ("training", field)


def _problem(document: YamlDocument, path: KeyPath, rule: str, way_out: str = "") -> Problem:
    return Problem(document.position(path), show_path(path), rule, way_out)
