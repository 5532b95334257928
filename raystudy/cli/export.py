"""Write a study's records to one Parquet file, to be published or carried to another storage."""

import argparse
from pathlib import Path

from raystudy import __version__
from raystudy.artifacts.downstream import read_all_answers
from raystudy.artifacts.files import read_json
from raystudy.artifacts.parquet import Export, ExportedRun, write_export
from raystudy.artifacts.storage import folder_name
from raystudy.artifacts.study_lock import lock_path
from raystudy.cli.finished import open_results
from raystudy.cli.options import add_storage, add_study, tell_damage
from raystudy.errors import SpecError
from raystudy.specs.masked import masked_study, masked_text
from raystudy.specs.protocol import TableProtocol
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: the study's name and .parquet)")


def call(options: argparse.Namespace) -> int:
    """Write the file and say what is in it and what is not."""
    found = open_results(options)
    results = StudyResults(found.storage, found.folder)  # as it was last run, which is what the importer will hold
    export = collect(results)
    path = Path(options.out or f"{folder_name(results.study.name)}.parquet")
    try:
        path.write_bytes(write_export(export, __version__))
    except OSError as error:
        raise SpecError(f"--out must name a file that can be written, but {path}: {error.strerror}") from error
    tell_damage(results.storage)
    missing = len(make_wave(results.state).wanted) - len(export.runs)
    print(f"{path}: {len(export.runs)} records of {results.study.name!r}, with evaluations and curves")
    print("not in it: weights and shards" + (f"; {missing} wanted runs have no record" if missing else ""))
    for protocol in results.folder.read_study()[0].protocols.values():
        if isinstance(protocol, TableProtocol):
            print(f"not in it: the scores of {protocol.file}, which must lie at that path where they are compared")
    return 0


def collect(results: StudyResults) -> Export:
    """The study's records with all that lies beside them, read from storage, without values of `engine.environment`."""
    ledger, runs = results.storage.runs, []
    wanted_runs = sorted(make_wave(results.state).wanted.items())
    with ledger.files.together(len(wanted_runs), results.folder.compacted):
        ledger.files.fetch_all(run_id for run_id, _ in wanted_runs)
        for run_id, wanted in wanted_runs:
            record = ledger.read(run_id)
            if record is None:
                continue
            about = {"recipe": wanted.recipe, "model": wanted.model, "lr": wanted.lr, "seed": wanted.seed}
            evaluations, attempts = ledger.read_evaluations(run_id), ledger.read_attempts(run_id)
            answers, curve = read_all_answers(ledger, run_id), ledger.read_curve(run_id)
            runs.append(ExportedRun(wanted.run, record, evaluations, curve, attempts, answers, about))
    return Export(
        study=dict(masked_study(read_json(results.folder.path / "study.json"))),
        text=masked_text(text) if (text := results.folder.read_text()) else "",
        lock=read_json(lock_path(results.folder.path)),
        frozen=read_json(results.folder.path / "frozen.json"),
        runs=runs,
    )
