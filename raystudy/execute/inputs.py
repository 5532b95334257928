"""Builds what a study reads (recipes' shards, validation sets) or finds it built, and gives the digests."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from raystudy.artifacts.damage import Look, look, set_aside
from raystudy.artifacts.external import write_external
from raystudy.artifacts.files import StoragePath, exists, is_folder
from raystudy.artifacts.sealed import verify_again
from raystudy.artifacts.shards import SourceSize, shards_read_by, source_sizes
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.synthetic import open_synthetic, write_synthetic
from raystudy.errors import DamagedError, DataError, MissingPackageError
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
from raystudy.recipes.tokenizer import vocabulary_size
from raystudy.specs.base import digest as spec_digest
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.external import external_data
from raystudy.specs.protocol import TableProtocol
from raystudy.specs.recipe import ExternalRecipe, ExternalSource, TextRecipe
from raystudy.specs.study import StudyDecoder, StudyModel, StudySpec
from raystudy.specs.synthetic import SyntheticData
from raystudy.study.protocols.given import table_scores
from raystudy.study.state import StudyInputs
from raystudy.study.synthetic import data_of, validation_data

_Value = TypeVar("_Value")


def build_inputs(study: StudySpec, storage: Storage, progress: Progress) -> StudyInputs:
    """Build every recipe and validation set that is not on the storage yet, or is damaged there.

    Raises:
        DataError: what is built anew from the same inputs is not what was there before.
    """
    if study.is_synthetic:
        return _write_synthetic(study, storage, progress)
    _write_external(study, storage, progress)
    check_disjoint(study.all_recipes, study.validation)
    found = mending(partial(find_inputs, study, storage, raises=True), progress)
    unbuilt = [name for name, digest in found.shards.items() if digest.startswith(UNBUILT)]
    if not unbuilt and not any(digest.startswith(UNBUILT) for digest in found.validation.values()):
        return found
    need_packages("tokenizers")
    progress.say(f"building {len(unbuilt)} of {len(found.shards)} recipes and the validation sets")
    shards = dict(found.shards)
    for recipe in text_recipes(study):
        shards[recipe.name] = mending(partial(build_recipe, recipe, study.tokenizer, storage.root), progress)
        if recipe.name in unbuilt:
            progress.say(f"  built {recipe.name}")
    validation = dict(found.validation)
    for name, spec in study.text_validation.items():
        validation[name] = mending(partial(build_validation, spec, study.tokenizer, storage.root), progress)
    return StudyInputs(shards, validation, found.vocabulary, None)


def see_whole(path: StoragePath, study: StudySpec, storage: Storage) -> None:
    """See that the shards at `path`, if there are any, are what was written.

    Raises:
        DamagedError: they are not.
    """
    if exists(path):
        verify_again(path)
        if not study.is_synthetic:
            shards_read_by(storage.root, path.name)


def mending(action: Callable[[], _Value], progress: Progress) -> _Value:
    """What `action` returns, once everything damaged that it meets is set aside.

    A thing is set aside when `action` finds it damaged twice and it was there all the time in between: another launch
    that meets the same damage may have made it anew just now.
    """
    suspect: tuple[StoragePath, Look] | None = None
    while True:
        try:
            return action()
        except DamagedError as error:
            found = (error.path, look(error.path))
            if found != suspect:
                suspect = found
                continue
            if found[1] is None:
                raise
            aside = set_aside(*found)
            suspect = None
            if aside is not None:
                progress.say(f"{error}; kept as {aside.name}")


def check_files(study: StudySpec) -> None:
    """See that every file the study names can be read: texts, tokenizer, tables.

    Raises:
        DataError: one cannot.
    """
    for name, protocol in study.protocols.items():
        if isinstance(protocol, TableProtocol):
            recipes = tuple(recipe.name for recipe in study.recipes)
            table_scores(Path(protocol.file), name, recipes, study.comparison.primary_metric)
    if study.is_synthetic:
        return
    problems: list[str] = []
    looks: list[Callable[[], object]] = [partial(vocabulary_size, study.tokenizer)]
    looks += [partial(inputs_digest, recipe, study.tokenizer) for recipe in text_recipes(study)]
    looks += [
        partial(validation_inputs_digest, validation, study.tokenizer) for validation in study.text_validation.values()
    ]
    for look_at in looks:
        try:
            look_at()
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n  ".join(dict.fromkeys(problems)))
    check_holdouts(study.all_recipes, study.validation)


def need_packages(*names: str, extra: str = "train", use: str = "to build and train") -> None:
    """See that packages are there, which the `extra` brings.

    Raises:
        MissingPackageError: one is not.
    """
    lacking = [name for name in names if find_spec(name) is None]
    if lacking:
        raise MissingPackageError(f"{', '.join(lacking)} must be installed {use}. Install raystudy[{extra}]")


def need_deepspeed(study: StudySpec) -> None:
    """See that DeepSpeed is there, if a model of the study is trained by it.

    Raises:
        MissingPackageError: it is not.
    """
    trained = [name for name, model in study.models.items() if _is_by_deepspeed(model)]
    if trained:
        need_packages("torch", "deepspeed", extra="deepspeed", use=f"to train model {trained[0]!r} (engine: deepspeed)")


def _is_by_deepspeed(model: StudyModel) -> bool:
    return isinstance(model, StudyDecoder) and isinstance(model.engine, DeepSpeedEngine)


UNBUILT = "unbuilt:"  # in front of what stands in for the digest of shards that are not built


def find_inputs(study: StudySpec, storage: Storage, *, raises: bool = False) -> StudyInputs:
    """The digests of what is built; for the rest a stand-in, so that a plan can count runs.

    What is damaged is told with the ledger's damage and counts as built, since its digest is known; with `raises` it
    is a DamagedError.
    """
    if study.is_synthetic:
        shards = {recipe.name: spec_digest(data_of(study, recipe)) for recipe in study.all_recipes}
        sets = {name: spec_digest(validation_data(study, name)) for name in study.validation}
        return StudyInputs(shards, sets, 0)

    def find(name: str, found: Callable[[], str | None]) -> str:
        try:
            return found() or f"{UNBUILT}{name}"
        except DamagedError as error:
            if raises:
                raise
            storage.runs.damage.append(str(error))
            return error.path.name if is_folder(error.path) else f"{UNBUILT}{name}"

    root, shards, validation = storage.root, dict[str, str](), dict[str, str]()
    for recipe in study.all_recipes:
        if isinstance(recipe, ExternalRecipe):
            shards[recipe.name] = spec_digest(external_data(recipe))
        elif isinstance(recipe, TextRecipe):
            shards[recipe.name] = find(recipe.name, partial(find_recipe, recipe, study.tokenizer, root))
    for name, spec in study.validation.items():
        if isinstance(spec.source, ExternalSource):
            validation[name] = spec_digest(external_data(spec.source))
        else:
            validation[name] = find(name, partial(find_validation, spec, study.tokenizer, root))
    return StudyInputs(shards, validation, vocabulary_size(study.tokenizer), None)


def _write_synthetic(study: StudySpec, storage: Storage, progress: Progress) -> StudyInputs:
    need_packages("safetensors")

    def write(data: SyntheticData) -> str:
        name = write_synthetic(storage.root, data)
        open_synthetic(storage.root, name)
        return name

    shards = {r.name: mending(partial(write, data_of(study, r)), progress) for r in study.all_recipes}
    sets = {name: mending(partial(write, validation_data(study, name)), progress) for name in study.validation}
    return StudyInputs(shards, sets, 0)


def _write_external(study: StudySpec, storage: Storage, progress: Progress) -> None:
    """Leave what stands for external data, and tell of data that had another path before."""
    specs: dict[str, ExternalRecipe | ExternalSource] = {
        f"recipe {recipe.name!r}": recipe for recipe in study.all_recipes if isinstance(recipe, ExternalRecipe)
    }
    for name, validation in study.validation.items():
        if isinstance(validation.source, ExternalSource):
            specs[f"validation set {name!r}"] = validation.source
    for name, spec in specs.items():
        before = mending(partial(write_external, storage.root, external_data(spec), spec.path), progress)
        if before != spec.path:
            progress.say(
                f"the data of {name} are at {spec.path!r}, and were at {before!r} first; their version "
                f"{spec.version!r} says that they are the same"
            )


def sizes_of_sources(study: StudySpec, inputs: StudyInputs, storage: Storage) -> dict[str, list[SourceSize]]:
    """The sources of every recipe whose size is known, by recipe: built and readable text, external data that say."""
    found = {}
    for recipe in study.all_recipes:
        digest = inputs.shards[recipe.name]
        if isinstance(recipe, ExternalRecipe):
            found[recipe.name] = external_sizes(recipe)
        elif isinstance(recipe, TextRecipe) and not digest.startswith(UNBUILT):
            with suppress(DataError):  # damage is told where shards are looked for
                found[recipe.name] = source_sizes(storage.root, digest)
    return found


def external_sizes(recipe: ExternalRecipe) -> list[SourceSize]:
    """The recipe as one source; none where it does not say how many tokens it holds."""
    return [] if recipe.tokens is None else [SourceSize("data", 1.0, recipe.tokens)]


def text_recipes(study: StudySpec) -> list[TextRecipe]:
    """The recipes and baselines of a study about text."""
    return [recipe for recipe in study.all_recipes if isinstance(recipe, TextRecipe)]
