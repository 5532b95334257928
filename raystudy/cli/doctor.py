"""Check, before training, what it needs of this machine."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from raystudy.artifacts.storage import locate_storage
from raystudy.cli.options import add_json, add_storage, add_study, put_json, wants_only_json
from raystudy.execute.doctor import Needs, examine, needs_of
from raystudy.specs.load import load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, required=False)
    add_storage(parser)
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Say what is found; ends non-zero on a problem. With a study only what it needs is one."""
    loaded = None if options.study is None else load_study(Path(options.study), options.overrides)
    is_given = options.storage is not None or loaded is not None or bool(os.environ.get("RAYSTUDY_STORAGE"))
    storage = locate_storage(options.storage, loaded) if is_given else None
    findings = examine(Needs() if loaded is None else needs_of(loaded.spec), storage)
    problems = sum(finding.severity == "problem" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if not wants_only_json(options):
        for finding in findings:
            print(finding)
        print(f"{problems} problems, {warnings} warnings")
    put_json(options, {"findings": [asdict(finding) for finding in findings], "problems": problems})
    return 1 if problems else 0
