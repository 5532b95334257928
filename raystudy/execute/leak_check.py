"""Looks for validation text in all recipes of a study, once for each set of shards."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.errors import DataError, StorageError
from raystudy.execute.progress import Progress
from raystudy.recipes.leaks import find_leaks
from raystudy.recipes.tokenizer import open_tokenizer
from raystudy.specs.study import StudySpec
from raystudy.study.state import StudyInputs


def with_leaks(inputs: StudyInputs, study: StudySpec, storage: Storage, progress: Progress) -> StudyInputs:
    """The inputs with what is leaked: as the study's folder says if the shards are the same, else looked for.

    Where that cannot be done here (no package tokenizers, no tokenizer file) `leaked` is None; a later launch looks.
    """
    if study.is_synthetic:
        return inputs
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
    leaks = find_leaks(storage.root, inputs.shards, inputs.validation, tokenizer)
    for recipe, sets in leaks.items():
        told = ", ".join(f"{share:.0%} of the documents of {name!r}" for name, share in sets.items())
        progress.say(f"LEAKED: recipe {recipe!r} holds {told}; there will be no verdict")
    return replace(inputs, leaked=leaks)


def _stored(storage: Storage, name: str) -> Mapping[str, Any]:
    try:
        return storage.study(name).read_study()[1]
    except StorageError:
        return {}
