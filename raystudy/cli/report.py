"""Write a study's report: one self-contained HTML page."""

import argparse
import datetime
from collections import Counter
from pathlib import Path
from typing import Any

from raystudy import __version__
from raystudy.cli.finished import exit_status, keep_comparison, open_results
from raystudy.cli.options import add_storage, add_study, tell_damage, write_output
from raystudy.report.page import render_page
from raystudy.specs.masked import masked_text
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: the study's folder on storage)")


def call(options: argparse.Namespace) -> int:
    """Compare, render, write, and say where."""
    results = open_results(options)
    page = render_page(results.comparison_json, provenance(results))
    tell_damage(results.storage)
    kept = keep_comparison(results)
    if options.out is None and not kept:
        print("report: left as it was, since it was made when no run was missing; --out FILE writes this one")
        return exit_status(results)
    if options.out is None:
        path = results.folder.write_report(page)
    else:
        path = Path(options.out)
        write_output("--out", path, page)
    print(f"report: {path}")
    return exit_status(results)


def provenance(results: StudyResults) -> dict[str, Any]:
    """Where the numbers came from: versions, devices, counts, the study file without values of `engine.environment`."""
    records = [record for run in make_wave(results.state).wanted.values() if (record := results.state.record(run))]
    made = [record.result.get("provenance", {}) for record in records]
    text = results.folder.read_text()
    return {
        "raystudy": __version__,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "study_file": masked_text(text) if text else "",
        "storage": str(results.storage.root),
        "num_runs": dict(Counter(record.status for record in records)),
        "packages": {k: v for about in made for k, v in about.get("packages", {}).items()},
        "devices": sorted({str(about.get("device")) for about in made}),
        "device_seconds": sum(record.device_seconds for record in records),
    }
