"""Tell MLflow or Weights & Biases of a study's finished runs, from its storage alone."""

import argparse
import sys

from raystudy.cli.finished import open_results
from raystudy.cli.options import add_storage, add_study, tell_damage
from raystudy.errors import RaystudyError, SpecError
from raystudy.execute.tracking import track


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Tell all trackers that the study names of the runs they have not been told of; one that fails keeps no other."""
    results = open_results(options)
    if results.study.track is None:
        raise SpecError(
            f"the study {results.study.name!r} must say who is to be told. Add `track: {{mlflow: {{}}}}` or "
            f"`track: {{wandb: {{}}}}` to its file (docs/tracking.md)"
        )
    status = 0
    for kind, told in track(results):
        if isinstance(told, RaystudyError):
            print(f"raystudy: {told}", file=sys.stderr)
            status = status or told.exit_status
        else:
            print(
                f"{results.study.name}: {kind} was told of {told} runs" if told else f"{kind} has been told of all runs"
            )
    tell_damage(results.storage)
    return status
