"""Finds the study that a verb on results means: a study file's, or one on the storage by name."""

import argparse
import sys
from pathlib import Path

from raystudy.artifacts.storage import locate_storage
from raystudy.distribute.jobs.moved import changed_fields
from raystudy.errors import DataError, IncompleteError, SpecError
from raystudy.execute.frozen_data import find_data
from raystudy.execute.resolving import named
from raystudy.specs.load import LoadedStudy, is_file, load_study
from raystudy.study.results import StudyResults, read_frozen

# What may change in a study file without asking for other runs than the stored study's.
_FREE = {"comparison", "resources", "storage", "truth", "protocols", "catalogues", "format", "track"}


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
    changed = changed_fields(stored, loaded.spec, _FREE)
    if changed:
        raise SpecError(f"{path} has changed since it was last run: {', '.join(changed)}. Run it again first")
    results = StudyResults(storage, folder, loaded.spec)
    _tell_changed_text(loaded, results)
    return results


def _tell_changed_text(loaded: LoadedStudy, results: StudyResults) -> None:
    """Say on standard error when own text has changed since the runs; where it cannot be read nothing is said."""
    try:
        changed = find_data(loaded, results.storage, read_frozen(results.folder)).changed
    except DataError:
        return
    if changed:
        print(
            f"raystudy: the data of {named(changed)} have changed since the runs; these are the old results. "
            f"Run the study with --resolve-again for new ones",
            file=sys.stderr,
        )


def keep_comparison(results: StudyResults) -> bool:
    """Keep the comparison in the study's folder, unless that would put one with missing runs over a complete one."""
    if results.comparison_json["missing"] and results.folder.has_complete_comparison():
        return False
    results.folder.write_comparison(results.comparison_json)
    return True


def exit_status(results: StudyResults) -> int:
    """0, or that of missing runs, with the way out on standard error."""
    if not results.comparison_json["missing"]:
        return 0
    print("raystudy: wanted runs are missing. Run the study again, or undo the change that wants them", file=sys.stderr)
    return IncompleteError.exit_status
