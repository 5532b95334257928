"""Copy a study's records, evaluations and comparison to a folder here, which is then a storage of its own."""

import argparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raystudy.artifacts.files import names_in, read_bytes, read_json, write_bytes, write_json
from raystudy.artifacts.storage import Storage, StudyFolder, locate_storage, open_storage
from raystudy.cli.export import read_run
from raystudy.cli.import_records import import_run
from raystudy.cli.options import add_storage, add_study, tell_damage
from raystudy.errors import DataError, SpecError
from raystudy.execute.driver_lock import hold_study
from raystudy.specs.base import canonical_json
from raystudy.specs.load import is_file, load_study
from raystudy.study.results import StudyResults
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave

_READERS = 16  # at once: on a remote storage each file is a round trip
# study.json last: with it the folder is a study. What a driver writes for itself stays behind.
_OF_THE_STUDY = ("frozen.json", "lock.json", "study.yaml", "comparison.json", "report.html", "study.json")
_MARK = "pulled.json"  # says where a study folder was copied from; a launch here never writes it
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
    if str(target.root) == str(source.root):
        raise SpecError(f"DEST must be another folder than the storage, but both are {source.root}")
    results = StudyResults(source, source.study(name))
    target.prepare()
    folder = target.study(name)
    with hold_study(folder.path, wait=False, say=print):
        _check_folder(folder, results)
        wanted = list(make_wave(results.state).wanted.values())
        with ThreadPoolExecutor(_READERS) as pool:
            told = list(pool.map(lambda run: _pull_run(results, target, run), wanted))
        _pull_study(results.folder, folder, str(source.root))
    _check_readable(target, name, results)
    tell_damage(source)
    return _tell(options.dest, name, wanted, told)


def _source(options: argparse.Namespace) -> tuple[Storage, str]:
    path = Path(options.study)
    if not is_file(path):
        return locate_storage(options.storage), options.study
    loaded = load_study(path, options.overrides)
    return locate_storage(options.storage, loaded), loaded.spec.name


def _check_folder(folder: StudyFolder, results: StudyResults) -> None:
    """Raises DataError where DEST holds a study of this name that was not pulled and is another."""
    there, here = read_json(folder.path / "study.json"), read_json(results.folder.path / "study.json")
    is_pulled = read_json(folder.path / _MARK) is not None
    if there is not None and not is_pulled and canonical_json(there) != canonical_json(here):
        raise DataError(
            f"DEST must hold no other study called {folder.name!r}, but {folder.path} is one that was not pulled. "
            f"Name another folder"
        )


def _pull_run(results: StudyResults, target: Storage, wanted: WantedRun) -> str:
    """Copy one record with what lies beside it, its result last; "new", "there", "differs" or "missing"."""
    if _has_all(results.storage, target, wanted.run_id):
        return "there"
    run = read_run(results, wanted)
    if run is None:
        return "missing"
    told = import_run(target.runs, run)
    copied = target.runs.read(wanted.run_id)
    return told if copied is not None and copied.result == run.record.result else "differs"


def _has_all(source: Storage, target: Storage, run_id: str) -> bool:
    if target.runs.read(run_id) is None:
        return False
    parts = ("eval", "tasks")
    return all(
        set(names_in(source.runs.folder(run_id) / part)) <= set(names_in(target.runs.folder(run_id) / part))
        for part in parts
    )


def _pull_study(source: StudyFolder, target: StudyFolder, location: str) -> None:
    write_json(target.path / _MARK, {"from": location})
    for name in _OF_THE_STUDY:
        content = read_bytes(source.path / name)
        if content is not None and content != read_bytes(target.path / name):
            write_bytes(target.path / name, content)


def _check_readable(target: Storage, name: str, results: StudyResults) -> None:
    """Raises DataError where what was pulled does not hold the records that the source has."""
    copied = StudyResults(target, target.study(name))
    lacking = results.state.records.keys() - copied.state.records.keys()
    if lacking:
        shown = ", ".join(sorted(lacking)[:_MOST_NAMED])
        raise DataError(f"every record must have come over, but {len(lacking)} have not: {shown}. Pull again")


def _tell(dest: str, name: str, wanted: list[WantedRun], told: list[str]) -> int:
    count = Counter(told)
    print(
        f"{dest}: {count['new']} records of {name!r} copied, {count['there']} were there, "
        f"{count['missing']} are missing"
    )
    differing = [run.run_id for run, word in zip(wanted, told, strict=True) if word == "differs"]
    if differing:
        print(f"{len(differing)} records in {dest} hold another result and stay: {', '.join(differing[:_MOST_NAMED])}")
    print(f"look at it: raystudy compare {name!r} --storage {dest}   (shards and weights stay where they are)")
    return 0
