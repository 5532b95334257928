"""Print the JSON Schema of a study file, a catalogue or a search space for editors, or of a trainer's result.json."""

import argparse
import json

from raystudy.specs.schema import FILE_KINDS, file_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("kind", nargs="?", choices=list(FILE_KINDS), default="study", help="of which file")


def call(options: argparse.Namespace) -> int:
    """Print it."""
    print(json.dumps(file_schema(options.kind), indent=1))
    return 0
