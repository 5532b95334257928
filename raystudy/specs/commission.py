"""What the worker that runs a command must know beside the run's identity, as the study says it."""

from pydantic import Field

from raystudy.specs.base import Spec
from raystudy.specs.command import CommandEngine
from raystudy.specs.metrics import read_metric
from raystudy.specs.recipe import ExternalRecipe, ExternalSource
from raystudy.specs.study import StudySpec


class ExternalPlace(Spec):
    """Where external data lie, and which they are."""

    path: str
    version: str


class Commission(Spec):
    """How the runs of one model on one recipe are to be made.

    `data`: of an external recipe; None for shards. `held`: external validation sets by name. `unique_tokens`: of an
    external recipe that says them. `metric`: the rows that the study's primary metric rests on. `threads` of a process.
    """

    engine: CommandEngine
    recipe: str
    model: str
    data: ExternalPlace | None = None
    held: dict[str, ExternalPlace] = Field(default={})
    unique_tokens: int | None = None
    metric: str = "loss"
    threads: int = Field(default=1, ge=1)


def commission_of(study: StudySpec, model: str, recipe: str) -> Commission:
    """The commission for a model that a command trains."""
    engine = study.command_of(model)
    assert engine is not None
    (spec,) = (one for one in study.all_recipes if one.name == recipe)
    is_external = isinstance(spec, ExternalRecipe)
    sources = {name: validation.source for name, validation in study.validation.items()}
    return Commission(
        engine=engine,
        recipe=recipe,
        model=model,
        data=ExternalPlace(path=spec.path, version=spec.version) if isinstance(spec, ExternalRecipe) else None,
        held={
            name: ExternalPlace(path=source.path, version=source.version)
            for name, source in sources.items()
            if isinstance(source, ExternalSource)
        },
        unique_tokens=spec.tokens if is_external and isinstance(spec, ExternalRecipe) else None,
        metric=read_metric(study.comparison.primary_metric).rows,
        threads=max(1, int(study.resources_of(model).cpus_per_run)),
    )
