"""Copy a study's records, evaluations and comparison to a folder here, which is then a storage of its own."""

import argparse
import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from raystudy.artifacts.files import read_bytes, read_json, write_bytes, write_json
from raystudy.artifacts.kept_tables import kept_tables
from raystudy.artifacts.parquet import ExportedRun
from raystudy.artifacts.storage import Storage, StudyFolder, locate_storage, open_storage
from raystudy.cli.export import collect
from raystudy.cli.import_records import import_run
from raystudy.cli.options import add_storage, add_study, tell_damage
from raystudy.errors import DataError, SpecError
from raystudy.execute.driver_lock import hold_study
from raystudy.specs.base import canonical_json
from raystudy.specs.load import is_file, load_study
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave

# study.json last: with it the folder is a study. What a driver writes for itself stays behind.
_OF_THE_STUDY = ("frozen.json", "lock.json", "study.yaml", "comparison.json", "report.html", "study.json")
# Says where a study folder was copied from, and by their digests what was; a launch here never writes it.
_MARK = "pulled.json"
_GOES_ON = ("study.json", "frozen.json")  # what a launch in DEST changes and nobody can make again
_MOST_NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    parser.add_argument("dest", metavar="DEST", help="a folder; `--storage DEST` then reads it")
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Copy what is not there yet; pulled again, it fetches what is new."""
    source, name = _source(options)
    target = open_storage(options.dest)
    location = _location(source)
    if _location(target) == location:
        raise SpecError(f"DEST must be another folder than the storage, but both are {location}")
    results = StudyResults(source, source.study(name))
    target.prepare()
    target.runs.mends = True
    folder = target.study(name)
    with hold_study(folder.path, wait=False, say=print):
        _check_folder(folder, results, location)
        told = {run.record.run_id: _put_run(target, run) for run in collect(results).runs}
        _pull_study(results.folder, folder, location)
    _check_readable(target, name, results)
    tell_damage(source)
    _tell(options.dest, name, told, len(make_wave(results.state).wanted) - len(told))
    return 0


def _source(options: argparse.Namespace) -> tuple[Storage, str]:
    path = Path(options.study)
    if not is_file(path):
        return locate_storage(options.storage), options.study
    loaded = load_study(path, options.overrides)
    return locate_storage(options.storage, loaded), loaded.spec.name


def _location(storage: Storage) -> str:
    """Where a storage lies, whatever links lead there."""
    return str(storage.root.resolve() if isinstance(storage.root, Path) else storage.root)


def _check_folder(folder: StudyFolder, results: StudyResults, location: str) -> None:
    """Raises DataError where DEST holds another study of this name, or this one as it went on there."""
    mark = read_json(folder.path / _MARK)
    if isinstance(mark, dict) and all(isinstance(mark.get(name), list) for name in _GOES_ON):
        if mark.get("from") != location:
            raise DataError(
                f"DEST must hold no study called {folder.name!r} from elsewhere, but {folder.path} was pulled from "
                f"{mark.get('from')}, not from {location}. Name another folder"
            )
        for name, there in _digests(folder).items():
            if there and there not in mark[name]:
                raise DataError(
                    f"DEST must hold the study {folder.name!r} as it was pulled, but {folder.path / name} has changed "
                    f"since, as when it goes on there, and would be replaced. Name another folder"
                )
        return
    there, here = read_json(folder.path / "study.json"), read_json(results.folder.path / "study.json")
    if there is not None and canonical_json(there) != canonical_json(here):
        raise DataError(
            f"DEST must hold no other study called {folder.name!r}, but {folder.path} is one that was not pulled. "
            f"Name another folder"
        )


def _digests(folder: StudyFolder) -> dict[str, str]:
    """SHA-256 of what a launch changes, empty for a file that is not there."""
    contents = {name: read_bytes(folder.path / name) for name in _GOES_ON}
    return {name: "" if content is None else hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _put_run(target: Storage, run: ExportedRun) -> str:
    """Write one record with what lies beside it, its result last; "new", "there" or "differs"."""
    told = import_run(target.runs, run)
    copied = target.runs.read(run.record.run_id)
    return told if copied is not None and copied.result == run.record.result else "differs"


def _pull_study(source: StudyFolder, target: StudyFolder, location: str) -> None:
    for table in kept_tables(source.path):
        write_bytes(target.path / table.parent.name / table.name, read_bytes(table) or b"")
    contents = {name: read_bytes(source.path / name) for name in _OF_THE_STUDY}
    before = _digests(target)
    coming = {name: hashlib.sha256(contents[name] or b"").hexdigest() for name in _GOES_ON}
    # Both, for a pull that is cut here.
    write_json(target.path / _MARK, {"from": location, **{name: [before[name], coming[name]] for name in _GOES_ON}})
    for name, content in contents.items():
        if content is not None and content != read_bytes(target.path / name):
            write_bytes(target.path / name, content)
    write_json(target.path / _MARK, {"from": location, **{name: [found] for name, found in _digests(target).items()}})


def _check_readable(target: Storage, name: str, results: StudyResults) -> None:
    """Raises DataError where what was pulled does not hold the records that the source has."""
    copied = StudyResults(target, target.study(name))
    lacking = results.state.records.keys() - copied.state.records.keys()
    if lacking:
        shown = ", ".join(sorted(lacking)[:_MOST_NAMED])
        raise DataError(f"every record must have come over, but {len(lacking)} have not: {shown}. Pull again")


def _tell(dest: str, name: str, told: Mapping[str, str], num_missing: int) -> None:
    count = Counter(told.values())
    print(f"{dest}: {count['new']} records of {name!r} copied, {count['there']} were there, {num_missing} are missing")
    differing = [run_id for run_id, word in told.items() if word == "differs"]
    if differing:
        print(f"{len(differing)} records in {dest} hold another result and stay: {', '.join(differing[:_MOST_NAMED])}")
    print(f"look at it: raystudy compare {shlex.quote(name)} --storage {shlex.quote(dest)}")
    print("shards and weights stay where they are: a new validation set or recipe needs them")
