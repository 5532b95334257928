"""Check a study file and all files it names; every problem is reported at once."""

import argparse
from pathlib import Path

from raystudy.cli.options import add_study
from raystudy.execute.downstream_inputs import check_tasks
from raystudy.execute.inputs import check_files
from raystudy.specs.load import load_study
from raystudy.specs.study import StudySpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser)


def call(options: argparse.Namespace) -> int:
    """Check and say what the study holds."""
    study = load_study(Path(options.study), options.overrides).spec
    check_files(study)
    check_tasks(study)
    print(
        f"{options.study}: study {study.name!r} is right: {len(study.recipes)} recipes, {len(study.validation)} "
        f"validation sets, {_tasks(study)}{len(study.models)} models, {len(study.protocols)} protocols, "
        f"truth {study.truth!r}"
    )
    return 0


def _tasks(study: StudySpec) -> str:
    return f"{len(study.tasks)} tasks, " if study.tasks else ""
