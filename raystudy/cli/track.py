"""Tell MLflow or Weights & Biases of a study's finished runs, from its storage alone."""

import argparse
import os
import sys

from raystudy.cli.finished import open_results
from raystudy.cli.options import add_storage, add_study, tell_damage
from raystudy.errors import RaystudyError, SpecError
from raystudy.execute.groups import PARENT_VARIABLE
from raystudy.execute.one_teller import hold_telling
from raystudy.execute.tracking import track
from raystudy.study.results import StudyResults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Tell all trackers that the study names of the runs they have not been told of; one that fails keeps no other."""
    if PARENT_VARIABLE in os.environ:  # beside a launch, with which this ends
        from raystudy.execute.rank_process import end_with_parent

        end_with_parent()
    results = open_results(options)
    if results.study.track is None:
        raise SpecError(
            f"the study {results.study.name!r} must say who is to be told. Add `track: {{mlflow: {{}}}}` or "
            f"`track: {{wandb: {{}}}}` to its file (docs/tracking.md)"
        )
    with hold_telling(results.folder.path, lambda line: print(line, file=sys.stderr)) as is_held:
        status = _tell(results) if is_held else 0
    if not is_held:
        print(f"{results.study.name}: another process tells its trackers; nothing was told by this one")
    tell_damage(results.storage)
    return status


def _tell(results: StudyResults) -> int:
    status = 0
    for kind, told in track(results):
        if isinstance(told, RaystudyError):
            print(f"raystudy: {told}", file=sys.stderr)
            status = status or told.exit_status
        else:
            print(
                f"{results.study.name}: {kind} was told of {told} runs" if told else f"{kind} has been told of all runs"
            )
    return status
