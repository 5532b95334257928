"""Data that raystudy never sees: known by the version that their owner gives, and by nothing else.

Recipes and validation sets of kind `external` are read by the trainer of an `engine: command`.
"""

from typing import Literal

from raystudy.specs.base import Spec
from raystudy.specs.recipe import ExternalRecipe, ExternalSource


class ExternalData(Spec):
    """What stands for external data on storage; its digest names them in runs. A path or a name is no part of it."""

    kind: Literal["external"] = "external"
    role: Literal["recipe", "validation set"]
    version: str


def external_data(spec: ExternalRecipe | ExternalSource) -> ExternalData:
    """What stands for a recipe or a validation set that raystudy never sees."""
    is_recipe = isinstance(spec, ExternalRecipe)
    return ExternalData(role="recipe" if is_recipe else "validation set", version=spec.version)
