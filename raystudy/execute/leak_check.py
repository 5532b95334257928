"""Looks for validation text in all recipes of a study, once for each set of shards."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.errors import DataError, StorageError
from raystudy.execute.inputs import text_recipes
from raystudy.execute.progress import Progress
from raystudy.recipes.leaks import find_leaks
from raystudy.recipes.tokenizer import open_tokenizer
from raystudy.specs.study import StudySpec
from raystudy.study.state import StudyInputs


def with_leaks(inputs: StudyInputs, study: StudySpec, storage: Storage, progress: Progress) -> StudyInputs:
    """The inputs with what is leaked: as the study's folder says if the shards are the same, else looked for.

    Where that cannot be done here (no package tokenizers, no tokenizer file) `leaked` is None; a later launch looks.
    External data cannot be looked into: where nothing is found beside them, `leaked` is None too.
    """
    if study.is_synthetic:
        return inputs
    recipes = {recipe.name: inputs.shards[recipe.name] for recipe in text_recipes(study)}
    validation = {name: inputs.validation[name] for name in study.text_validation}
    if not recipes or not validation:
        progress.say("validation text was not looked for in the recipes: raystudy does not hold external data")
        return replace(inputs, leaked=None)
    before = _stored(storage, study.name)
    if before.get("leaked") is not None and all(
        before.get(kind) == dict(getattr(inputs, kind)) for kind in ("shards", "validation")
    ):
        return replace(inputs, leaked=before["leaked"])
    if find_spec("tokenizers") is None:
        progress.say("validation text was not looked for in the recipes: the package tokenizers is not installed")
        return replace(inputs, leaked=None)
    try:
        tokenizer = open_tokenizer(study.tokenizer)
    except DataError as error:
        progress.say(f"validation text was not looked for in the recipes: {error}")
        return replace(inputs, leaked=None)
    leaks = find_leaks(storage.root, recipes, validation, tokenizer)
    for recipe, sets in leaks.items():
        told = ", ".join(f"{share:.0%} of the documents of {name!r}" for name, share in sets.items())
        progress.say(f"LEAKED: recipe {recipe!r} holds {told}; there will be no verdict")
    if study.has_external_data and not leaks:
        progress.say("validation text was looked for where raystudy holds it, and not in external data")
        return replace(inputs, leaked=None)
    return replace(inputs, leaked=leaks)


def _stored(storage: Storage, name: str) -> Mapping[str, Any]:
    try:
        return storage.study(name).read_study()[1]
    except StorageError:
        return {}
