"""Which shards a study's recipes and validation sets stand for: settled at the first launch, checked at later ones.

Data are known by their spec in the study file (own files relative to that file), never by name: a renamed recipe has
the same data, an edited one is new. Where own files are absent, as on a second machine, the shards on storage count.
"""

import glob
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.storage import Storage
from raystudy.errors import DataError
from raystudy.execute.downstream_inputs import check_tasks, with_tasks
from raystudy.execute.inputs import UNBUILT, build_inputs, check_files, find_inputs, mending, see_whole
from raystudy.execute.progress import Progress
from raystudy.recipes.build import inputs_digest, validation_inputs_digest
from raystudy.recipes.inputs import BUILD_VERSION, are_there
from raystudy.specs.base import canonical_json, digest
from raystudy.specs.load import LoadedStudy
from raystudy.specs.recipe import TextRecipe, ValidationSet
from raystudy.specs.study import StudySpec
from raystudy.study.frozen import Frozen, FrozenData
from raystudy.study.state import StudyInputs

_DESCRIPTION = ("name", "dimension", "family", "control", "description")  # of a recipe; no part of its data

Item = tuple[str, str]  # "recipe" or "validation set", and its name


@dataclass(frozen=True)
class SettledData:
    """A study's data. `now`: what its text gives; `before`: what was frozen, else the same; `changed` differ."""

    now: StudyInputs
    before: StudyInputs
    changed: tuple[Item, ...]
    absent: tuple[Item, ...]
    keys: Mapping[Item, str]

    def with_tasks(self, study: StudySpec, storage: Storage, progress: Progress | None = None) -> "SettledData":
        """These data with the study's downstream tasks: built with `progress`, else found."""
        now = with_tasks(self.now, study, storage, progress)
        return replace(self, now=now, before=replace(self.before, tasks=now.tasks, sizes=now.sizes))

    def freeze(self, frozen: Frozen) -> Frozen:
        """What is frozen, with these data."""
        data = dict(frozen.data)
        for (kind, name), key in self.keys.items():
            shards = (self.now.shards if kind == "recipe" else self.now.validation)[name]
            data[key] = FrozenData(shards, self.now.vocabulary, f"{kind} {name!r}")
        return replace(frozen, data=data)


def build_data(loaded: LoadedStudy, storage: Storage, frozen: Frozen, progress: Progress) -> SettledData:
    """Build what is not on the storage yet, and compare it with what is frozen.

    Raises:
        DataError: text cannot be read and is not on the storage either, or breaks a rule.
    """
    study, keys = loaded.spec, data_keys(loaded)
    absent = _absent(study, storage, frozen, keys)
    present = _without(study, absent)
    if present.validation or present.all_recipes:
        check_files(present)
        check_tasks(study)
        now = build_inputs(present, storage, progress)
    else:
        now = StudyInputs({}, {}, frozen.data[keys[absent[0]]].vocabulary, None)
    if absent:
        names = ", ".join(name for _, name in absent)
        progress.say(f"the files of {names} cannot be read here; the shards on the storage are used")
    return _settle(study, frozen, keys, absent, now).with_tasks(study, storage, progress)


def mend_data(path: StoragePath, loaded: LoadedStudy, storage: Storage, frozen: Frozen, progress: Progress) -> None:
    """Build shards anew that a worker found damaged at `path`, once this process finds them damaged too.

    Raises:
        DataError: what is built anew is not what was there before, or its text is not there to build it from.
    """
    mending(partial(see_whole, path, loaded.spec, storage), progress)
    changed = build_data(loaded, storage, frozen, progress).changed
    if changed:
        raise DataError(
            f"damaged shards built anew must be what they were, but those of {', '.join(name for _, name in changed)} "
            f"are not: its text or the packages that build it have changed. Run the study with --resolve-again: its "
            f"runs then are runs on the new shards"
        )


def find_data(loaded: LoadedStudy, storage: Storage, frozen: Frozen) -> SettledData:
    """As `build_data` for a look: builds nothing, so that text that is not built counts as changed if it was frozen."""
    study, keys = loaded.spec, data_keys(loaded)
    absent = _absent(study, storage, frozen, keys)
    present = _without(study, absent)
    if present.validation or present.all_recipes:
        now = find_inputs(present, storage)
    else:
        now = StudyInputs({}, {}, frozen.data[keys[absent[0]]].vocabulary, None)
    settled = _settle(study, frozen, keys, absent, now).with_tasks(study, storage)
    # Shards that were removed from the storage are no change of text: whether it is one is known once they are built.
    gone = [
        item
        for item in settled.changed
        if _of(now, item).startswith(UNBUILT) and not are_there(storage.root, frozen.data[keys[item]].shards)
    ]
    return replace(settled, changed=tuple(item for item in settled.changed if item not in gone))


def data_keys(loaded: LoadedStudy) -> dict[Item, str]:
    """What each recipe and validation set of text is known by; other data have an identity of their own."""
    study = loaded.spec
    if study.is_synthetic:
        return {}
    base = str(loaded.path.parent.resolve())
    tokenizer = study.tokenizer if study.tokenizer == "embedded" else os.path.relpath(study.tokenizer, base)
    keys: dict[Item, str] = {}
    items: dict[Item, TextRecipe | ValidationSet] = {
        ("recipe", recipe.name): recipe for recipe in study.all_recipes if isinstance(recipe, TextRecipe)
    }
    items |= {("validation set", name): spec for name, spec in study.text_validation.items()}
    for item, spec in items.items():
        plain = {key: value for key, value in json.loads(canonical_json(spec)).items() if key not in _DESCRIPTION}
        sources = plain.get("sources", {}).values() if item[0] == "recipe" else [plain["source"]]
        for source in sources:
            if "files" in source:
                source["files"] = [os.path.relpath(file, glob.escape(base)) for file in source["files"]]
        keys[item] = digest({"build": BUILD_VERSION, "tokenizer": tokenizer, "spec": plain})
    return keys


def _absent(study: StudySpec, storage: Storage, frozen: Frozen, keys: Mapping[Item, str]) -> tuple[Item, ...]:
    """What cannot be read here, while its frozen shards are on the storage."""
    return tuple(
        item
        for item, key in keys.items()
        if key in frozen.data and not _can_be_read(study, item) and are_there(storage.root, frozen.data[key].shards)
    )


def _can_be_read(study: StudySpec, item: Item) -> bool:
    kind, name = item
    if kind == "recipe":
        (recipe,) = (r for r in study.all_recipes if r.name == name and isinstance(r, TextRecipe))
        look = partial(inputs_digest, recipe, study.tokenizer)
    else:
        look = partial(validation_inputs_digest, study.validation[name], study.tokenizer)
    try:
        look()
    except DataError:
        return False
    return True


def _without(study: StudySpec, absent: tuple[Item, ...]) -> StudySpec:
    """The study less what is absent; only its recipes and validation sets are to be used."""
    if not absent:
        return study
    names = {name for kind, name in absent if kind == "recipe"}
    sets = {name for kind, name in absent if kind != "recipe"}
    return study.model_copy(
        update={
            "recipes": tuple(recipe for recipe in study.recipes if recipe.name not in names),
            "baselines": tuple(recipe for recipe in study.baselines if recipe.name not in names),
            "validation": {name: spec for name, spec in study.validation.items() if name not in sets},
        }
    )


def _of(inputs: StudyInputs, item: Item) -> str:
    kind, name = item
    return (inputs.shards if kind == "recipe" else inputs.validation)[name]


def _settle(
    study: StudySpec, frozen: Frozen, keys: Mapping[Item, str], absent: tuple[Item, ...], found: StudyInputs
) -> SettledData:
    """Put the absent beside the found, in the study's order, and see what differs from what is frozen."""

    def both(kind: str, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
        now, before = {}, {}
        for name in names:
            known = frozen.data.get(keys.get((kind, name), ""))
            now[name] = known.shards if known is not None and (kind, name) in absent else _of(found, (kind, name))
            before[name] = known.shards if known is not None else now[name]
        return now, before

    shards, shards_before = both("recipe", [recipe.name for recipe in study.all_recipes])
    sets, sets_before = both("validation set", list(study.validation))
    now = StudyInputs(shards, sets, found.vocabulary, found.leaked)
    before = StudyInputs(shards_before, sets_before, found.vocabulary, found.leaked)
    changed = tuple(item for item in keys if _of(now, item) != _of(before, item))
    return SettledData(now, before, changed, absent, keys)
