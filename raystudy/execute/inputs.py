"""Builds what a study reads (recipes' shards, validation sets) or finds it built, and gives the digests."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from raystudy.artifacts.storage import Storage
from raystudy.artifacts.synthetic import write_synthetic
from raystudy.errors import DataError, MissingPackageError, StorageError
from raystudy.execute.progress import Progress
from raystudy.recipes.build import (
    build_recipe,
    build_validation,
    find_recipe,
    find_validation,
    inputs_digest,
    validation_inputs_digest,
)
from raystudy.recipes.disjoint import check_disjoint, check_holdouts
from raystudy.recipes.leaks import find_leaks
from raystudy.recipes.tokenizer import open_tokenizer, vocabulary_size
from raystudy.specs.base import digest as spec_digest
from raystudy.specs.protocol import TableProtocol
from raystudy.specs.recipe import TextRecipe
from raystudy.specs.study import StudySpec
from raystudy.study.protocols.given import read_score_table
from raystudy.study.state import StudyInputs
from raystudy.study.synthetic import data_of, validation_data


def build_inputs(study: StudySpec, storage: Storage, progress: Progress) -> StudyInputs:
    """Build every recipe and validation set that is not on the storage yet."""
    if study.is_synthetic:
        return _write_synthetic(study, storage)
    check_disjoint(study.all_recipes, study.validation)
    found = find_inputs(study, storage)
    unbuilt = [name for name, digest in found.shards.items() if digest.startswith(UNBUILT)]
    if not unbuilt and not any(digest.startswith(UNBUILT) for digest in found.validation.values()):
        return _with_leaks(found, study, storage, progress)
    need_packages("tokenizers")
    progress.say(f"building {len(unbuilt)} of {len(found.shards)} recipes and the validation sets")
    shards = {}
    for recipe in text_recipes(study):
        shards[recipe.name] = build_recipe(recipe, study.tokenizer, storage.root)
        if recipe.name in unbuilt:
            progress.say(f"  built {recipe.name}")
    validation = {
        name: build_validation(spec, study.tokenizer, storage.root) for name, spec in study.validation.items()
    }
    return _with_leaks(StudyInputs(shards, validation, found.vocabulary), study, storage, progress)


def _with_leaks(inputs: StudyInputs, study: StudySpec, storage: Storage, progress: Progress) -> StudyInputs:
    """The inputs with what is leaked: as the study's folder says if the shards are the same, else looked for."""
    try:
        _, before = storage.study(study.name).read_study()
    except StorageError:
        before = {}
    if "leaked" in before and all(before.get(k) == dict(getattr(inputs, k)) for k in ("shards", "validation")):
        return replace(inputs, leaked=before["leaked"])
    if find_spec("tokenizers") is None:
        progress.say("validation text was not looked for in the recipes: the package tokenizers is not installed")
        return inputs
    leaks = find_leaks(storage.root, inputs.shards, inputs.validation, open_tokenizer(study.tokenizer))
    for recipe, sets in leaks.items():
        told = ", ".join(f"{share:.0%} of the documents of {name!r}" for name, share in sets.items())
        progress.say(f"LEAKED: recipe {recipe!r} holds {told}; there will be no verdict")
    return replace(inputs, leaked=leaks)


def check_files(study: StudySpec) -> None:
    """See that every file the study names can be read: texts, tokenizer, tables.

    Raises:
        DataError: one cannot.
    """
    for protocol in study.protocols.values():
        if isinstance(protocol, TableProtocol):
            read_score_table(Path(protocol.file), tuple(recipe.name for recipe in study.recipes))
    if study.is_synthetic:
        return
    problems: list[str] = []
    looks: list[Callable[[], object]] = [partial(vocabulary_size, study.tokenizer)]
    looks += [partial(inputs_digest, recipe, study.tokenizer) for recipe in text_recipes(study)]
    looks += [
        partial(validation_inputs_digest, validation, study.tokenizer) for validation in study.validation.values()
    ]
    for look in looks:
        try:
            look()
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n  ".join(dict.fromkeys(problems)))
    check_holdouts(study.all_recipes, study.validation)


def need_packages(*names: str) -> None:
    """See that the packages of the `train` extra are there.

    Raises:
        MissingPackageError: one is not.
    """
    lacking = [name for name in names if find_spec(name) is None]
    if lacking:
        raise MissingPackageError(f"{', '.join(lacking)} must be installed to build and train. Install raystudy[train]")


UNBUILT = "unbuilt:"  # in front of what stands in for the digest of shards that are not built


def find_inputs(study: StudySpec, storage: Storage) -> StudyInputs:
    """The digests of what is built; for the rest a stand-in, so that a plan can count runs."""
    if study.is_synthetic:
        shards = {recipe.name: spec_digest(data_of(study, recipe)) for recipe in study.all_recipes}
        sets = {name: spec_digest(validation_data(study, name)) for name in study.validation}
        return StudyInputs(shards, sets, 0)
    shards = {
        recipe.name: find_recipe(recipe, study.tokenizer, storage.root) or f"{UNBUILT}{recipe.name}"
        for recipe in text_recipes(study)
    }
    validation = {
        name: find_validation(spec, study.tokenizer, storage.root) or f"{UNBUILT}{name}"
        for name, spec in study.validation.items()
    }
    return StudyInputs(shards, validation, vocabulary_size(study.tokenizer))


def _write_synthetic(study: StudySpec, storage: Storage) -> StudyInputs:
    need_packages("safetensors")
    shards = {recipe.name: write_synthetic(storage.root, data_of(study, recipe)) for recipe in study.all_recipes}
    sets = {name: write_synthetic(storage.root, validation_data(study, name)) for name in study.validation}
    return StudyInputs(shards, sets, 0)


def text_recipes(study: StudySpec) -> list[TextRecipe]:
    """The recipes and baselines of a study about text."""
    return [recipe for recipe in study.all_recipes if isinstance(recipe, TextRecipe)]
