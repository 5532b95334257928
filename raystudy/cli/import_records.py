"""Put the records of an exported study into a storage; every record is checked, and the first result wins."""

import argparse
from collections import Counter
from pathlib import Path

from raystudy.artifacts.downstream import mended_answers, write_answers
from raystudy.artifacts.evaluations import reading_of
from raystudy.artifacts.files import read_json, write_bytes, write_json
from raystudy.artifacts.parquet import Export, ExportedRun, read_export
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.storage import StudyFolder, locate_storage
from raystudy.artifacts.study_lock import lock_path
from raystudy.cli.options import add_storage, tell_damage
from raystudy.errors import DataError, StorageError
from raystudy.execute.driver_lock import hold_study
from raystudy.specs.base import canonical_json
from raystudy.specs.masked import masked_study
from raystudy.specs.protocol import TableProtocol
from raystudy.study.frozen import Frozen, merged, read_plain
from raystudy.study.results import read_frozen

_MOST_NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("file", metavar="FILE", help="a file that `raystudy export` wrote")
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Import, and say what was new, what was there, and what differs."""
    export = read_export(Path(options.file))
    imported = _frozen_in(export, options.file)
    storage = locate_storage(options.storage)
    storage.prepare()
    folder = storage.study(export.spec.name)
    with hold_study(folder.path, wait=False, say=print):
        _check_same(folder, export)
        frozen = _frozen_with(folder, imported)
        storage.runs.mends = True
        told = Counter(import_run(storage.runs, run) for run in export.runs)
        differing = [run.record.run_id for run in export.runs if _differs(storage.runs, run)]
        _write_study(folder, export, frozen)
    tell_damage(storage)
    print(f"{export.spec.name}: {told['new']} records imported, {len(export.runs) - told['new']} were there already")
    if differing:
        shown = ", ".join(differing[:_MOST_NAMED]) + (" ..." if len(differing) > _MOST_NAMED else "")
        print(f"{len(differing)} of those that were there hold another result, and stay as they are: {shown}")
    for protocol in export.spec.protocols.values():
        if isinstance(protocol, TableProtocol):
            print(f"it compares with the scores of {protocol.file}, which must lie at that path here")
    print("weights and shards are not in an export: a new validation set or recipe needs them")
    return 0


def _check_same(folder: StudyFolder, export: Export) -> None:
    """Raises DataError where the storage holds another study, or another lock, under the same name."""
    for name, value in (("study.json", export.study), ("lock.json", export.lock)):
        there = read_json(folder.path / name)
        # An export has no values of engine.environment, on which no record rests.
        if there is not None and canonical_json(masked_study(there)) != canonical_json(masked_study(value)):
            raise DataError(
                f"a study is imported beside none or an equal one of its name, but {folder.path / name} differs. "
                f"Import into another storage"
            )


def _frozen_in(export: Export, shown: str) -> Frozen:
    """What the exported study has settled; raises DataError where that is something else."""
    try:
        return read_plain(export.frozen)
    except StorageError as error:
        raise DataError(f"{shown} must hold what the study has frozen, but {error}. Make the export anew") from error


def _frozen_with(folder: StudyFolder, imported: Frozen) -> Frozen:
    """What is settled here and there; raises DataError where the two differ."""
    both = merged(read_frozen(folder), imported)
    if both is None:
        raise DataError(
            f"what an imported study has settled must be what is settled here, but {folder.path / 'frozen.json'} "
            f"differs. Import into another storage"
        )
    return both


def import_run(ledger: RunLedger, exported: ExportedRun) -> str:
    """Write one record, the result last; "new", or "there" where a result was there before and stays."""
    run_id, record = exported.record.run_id, exported.record
    if ledger.read(run_id) is None:
        ledger.write_spec(exported.run)
        ledger.write_curve(run_id, exported.curve)
        _write_evaluations(ledger, exported)
        if not ledger.read_attempts(run_id):
            for attempt in exported.attempts:
                ledger.write_attempt(run_id, attempt)
        result = {key: value for key, value in record.result.items() if key not in ("format", "run_id")}
        if ledger.write_result(run_id, result):
            return "new"
    if not _differs(ledger, exported):
        _write_evaluations(ledger, exported)
    return "there"


def _write_evaluations(ledger: RunLedger, exported: ExportedRun) -> None:
    """Those that are not there; an evaluation of other weights is never put beside a result that differs."""
    for evaluation in exported.evaluations:
        there = ledger.read_evaluation(exported.record.run_id, evaluation["validation"], reading_of(evaluation))
        if there is None:
            ledger.write_evaluation(exported.record.run_id, evaluation)
    for answers in exported.answers:
        if mended_answers(ledger, exported.record.run_id, answers["items"], reading_of(answers)) is None:
            write_answers(ledger.folder(exported.record.run_id), answers)


def _differs(ledger: RunLedger, exported: ExportedRun) -> bool:
    there = ledger.read(exported.record.run_id)
    return there is None or there.result != exported.record.result


def _write_study(folder: StudyFolder, export: Export, frozen: Frozen) -> None:
    there = folder.read_frozen()
    if export.frozen is not None and (there is None or read_plain(there) != frozen):
        folder.write_frozen(frozen.as_plain())
    if read_json(folder.path / "study.json") is None:
        write_bytes(folder.path / "study.yaml", export.text.encode())
        write_json(folder.path / "study.json", export.study)
    if export.lock is not None:
        write_json(lock_path(folder.path), export.lock, exclusive=True)
