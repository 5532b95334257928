"""Finds the study that a verb on results means: a study file's, or one on the storage by name."""

import argparse
from pathlib import Path

from raystudy.artifacts.storage import locate_storage
from raystudy.errors import SpecError
from raystudy.specs.load import is_file, load_study
from raystudy.study.results import StudyResults

# What may change in a study file without asking for other runs than the stored study's.
_FREE = {"comparison", "resources", "storage", "truth", "protocols", "catalogues", "format"}


def open_results(options: argparse.Namespace) -> StudyResults:
    """The results of STUDY.

    Raises:
        SpecError: the file asks for other recipes, data, models or training than what was run last.
        StorageError: the study has not been run on this storage.
    """
    path = Path(options.study)
    if not is_file(path):
        if path.suffix in (".yaml", ".yml") or options.overrides:
            raise SpecError(f"STUDY must be a study file or, without --set, a study's name, but {path} is not there")
        storage = locate_storage(options.storage)
        return StudyResults(storage, storage.study(options.study))
    loaded = load_study(path, options.overrides)
    storage = locate_storage(options.storage, loaded)
    folder = storage.study(loaded.spec.name)
    stored, _ = folder.read_study()
    changed = [
        field
        for field in type(stored).model_fields
        if field not in _FREE and getattr(stored, field) != getattr(loaded.spec, field)
    ]
    if changed:
        raise SpecError(f"{path} has changed since it was last run: {', '.join(changed)}. Run it again first")
    return StudyResults(storage, folder, loaded.spec)
