"""Compare the trainer of one process with the reference trainer on the study's own models, in a few steps of each."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from raystudy.artifacts.storage import locate_storage
from raystudy.cli.options import add_json, add_storage, add_study, print_table, put_json, wants_only_json
from raystudy.distribute.parity import answering
from raystudy.errors import SpecError
from raystudy.execute.parity import DEFAULT_STEPS, parities, reference_models
from raystudy.execute.progress import Progress
from raystudy.specs.load import load_study

if TYPE_CHECKING:
    from raystudy.reference.parity.judging import Parity
    from raystudy.reference.parity.naming import Known

STATUSES = {"same": 0, "different": 9, "undecided": 10}
_SAME = {True: "yes", False: "NO", None: "?"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser)
    add_storage(parser)
    parser.add_argument("--model", metavar="NAME", help="compare this model only (default: all of engine deepspeed)")
    parser.add_argument("--address", help="Ray cluster whose nodes train (default: RAY_ADDRESS, else this machine)")
    parser.add_argument("--local", action="store_true", help="train on this machine, whatever RAY_ADDRESS says")
    help_text = f"steps of the study's own run that are compared (default: {DEFAULT_STEPS})"
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, metavar="N", help=help_text)
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Compare; the exit status is the verdict's."""
    loaded = load_study(Path(options.study), options.overrides)
    storage = locate_storage(options.storage, loaded)
    if options.local and options.address is not None:
        raise SpecError("--local and --address exclude each other. Leave one out")
    reference_models(loaded.spec, options.model)  # what cannot be compared is told before a cluster is asked
    found = []
    with answering(options.address, storage, is_local=options.local) as answer:
        for parity in parities(loaded.spec, storage, options.model, options.steps, Progress(), answer):
            found.append(parity)
            if not wants_only_json(options):
                _print(parity)
    put_json(options, [parity.as_dict() for parity in found])
    verdicts = {parity.verdict for parity in found}
    worst = next(verdict for verdict in ("different", "undecided", "same") if verdict in verdicts)
    if not wants_only_json(options):
        for parity in found:
            print(parity.sentence)
    return STATUSES[worst]


def _print(parity: "Parity") -> None:
    rows = [
        (
            f"{row.case}: {row.quantity}",
            row.train,
            row.reference,
            f"{row.difference:.2g}",
            f"{row.bound:.2g}" if row.bound else "equal",
            _SAME[row.is_same],
        )
        for row in parity.rows
    ]
    print_table((parity.model, "train/", "reference/", "difference", "bound", "same?"), rows)
    if parity.known:
        print()
        header = ("difference built into the probe", "effect / bound", "would show", "reference / bound", "is it?")
        is_asked = any(known.distance is not None for known in parity.known)
        columns = len(header) if is_asked else 3
        print_table(header[:columns], [_known(known)[:columns] for known in parity.known])
    print()


def _known(known: "Known") -> tuple[str, ...]:
    distance = "" if known.distance is None else f"{known.distance:.3g}"
    is_it = "yes" if known.is_it else "no"
    return (known.words, f"{known.effect:.3g}", "yes" if known.would_show else "NO", distance, is_it)
