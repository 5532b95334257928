"""Makes sure that no document of own files is both trained on and validated on.

Compares documents by their text, as they are before steps. The embedded corpus is split by its manifest.
"""

from collections.abc import Iterable, Mapping

from raystudy.errors import DataError
from raystudy.recipes.documents import document_key
from raystudy.recipes.inputs import source_parts
from raystudy.recipes.sources.text import find_files
from raystudy.specs.recipe import Recipe, TextRecipe, TextSource, ValidationSet


def check_disjoint(recipes: Iterable[Recipe], validation: Mapping[str, ValidationSet]) -> None:
    """Refuse validation sets over own files that hold a document which a recipe reads.

    Raises:
        DataError: names the validation set, the recipe, its source and how many documents they share.
    """
    held = {name: _keys(v.source, True) for name, v in validation.items() if isinstance(v.source, TextSource)}
    if not held:
        return
    read: dict[str, frozenset[str]] = {}
    problems = []
    for recipe in recipes:
        for source_name, source in recipe.sources.items() if isinstance(recipe, TextRecipe) else ():
            if not isinstance(source, TextSource) or source.weight == 0:
                continue
            identity = source_parts(source, held_out=False)[0].identity
            if identity not in read:
                read[identity] = _keys(source, False)
            problems += [
                f"validation {name!r} and source {source_name!r} of recipe {recipe.name!r} share "
                f"{len(keys & read[identity])} of {len(keys)} documents"
                for name, keys in held.items()
                if keys & read[identity]
            ]
    if problems:
        raise DataError(
            f"no document may be both trained on and validated on, but {'; '.join(problems)}. "
            f"Set the same `holdout` on the source and in the validation set, or validate on other files"
        )


def check_holdouts(recipes: Iterable[Recipe], validation: Mapping[str, ValidationSet]) -> None:
    """Refuse a file that a recipe and a validation set read with different `holdout`; opens no text.

    Raises:
        DataError: names the validation set, the recipe, its source and both shares.
    """
    problems = []
    own = {name: v.source for name, v in validation.items() if isinstance(v.source, TextSource)}
    for recipe in recipes:
        for source_name, source in recipe.sources.items() if isinstance(recipe, TextRecipe) else ():
            if not isinstance(source, TextSource) or source.weight == 0:
                continue
            problems += [
                f"validation {name!r} has holdout {held.holdout:g} and source {source_name!r} of recipe "
                f"{recipe.name!r} has {source.holdout:g}"
                for name, held in own.items()
                if set(find_files(held)) & set(find_files(source))
                and (held.holdout != source.holdout or not held.holdout)
            ]
    if problems:
        raise DataError(
            f"where a recipe and a validation set read the same files both must set the same `holdout` above 0, "
            f"but {'; '.join(problems)}"
        )


def _keys(source: TextSource, held_out: bool) -> frozenset[str]:
    return frozenset(document_key(text) for part in source_parts(source, held_out=held_out) for text in part.read())
