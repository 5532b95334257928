"""`raystudy compare --table FILE`: the options of a table, read and checked, and its comparison."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raystudy.artifacts.score_table import COLUMNS, read_score_table
from raystudy.errors import SpecError
from raystudy.study.table_comparison import TableQuestion, compare_table, metrics_in, protocols_in

_LEAST_RESAMPLES, _MOST_RESAMPLES = 100, 1_000_000
_ONLY_WITH_TABLE = ("truth", "candidate", "column", "higher_is_better", "seed", "resamples")
_NOT_WITH_TABLE = ("storage",)


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """`--table` and what goes with it."""
    group = parser.add_argument_group("a table of scores instead of STUDY")
    group.add_argument("--table", metavar="FILE", help="CSV, TSV or Parquet with columns recipe, protocol, score and "
                       "optionally seed, metric and tokenizer")  # fmt: skip
    group.add_argument("--truth", metavar="NAME", help="the protocol that is the truth")
    group.add_argument("--candidate", metavar="NAME", nargs="+", action="extend",
                       help="protocols to compare with it (default: all others)")  # fmt: skip
    group.add_argument("--column", metavar="NOUN=COLUMN", nargs="+", action="extend",
                       help="the table's name for recipe, protocol, score, seed, metric or tokenizer")  # fmt: skip
    group.add_argument("--higher-is-better", metavar="METRIC", nargs="*", action="extend",
                       help="metrics of which higher is better (without METRIC: all)")  # fmt: skip
    group.add_argument("--seed", type=int, help="of the generator behind every interval (default: 0)")
    group.add_argument("--resamples", type=int, help="draws behind every interval (default: 10000)")


def check_options(options: argparse.Namespace) -> None:
    """See that the options go together.

    Raises:
        SpecError: STUDY and --table are both there or both missing, or an option of the other is given.
    """
    if options.table is None:
        given = [name for name in _ONLY_WITH_TABLE if getattr(options, name) is not None]
        if given:
            raise SpecError(
                f"--{given[0].replace('_', '-')} goes with --table only. Give --table FILE, or leave it out"
            )
        if options.study is None:
            raise SpecError("compare must have a STUDY, or --table FILE --truth NAME. Give one of the two")
        return
    if options.study is not None:
        raise SpecError(
            f"STUDY and --table exclude each other, but got {options.study!r} and --table {options.table!r}"
        )
    given = [name for name in _NOT_WITH_TABLE if getattr(options, name) is not None]
    if given or options.overrides:
        raise SpecError(f"--{(given or ['set'])[0]} goes with a STUDY only. Leave it out with --table")
    if options.truth is None:
        raise SpecError("--table must come with --truth NAME: the protocol that the others are compared with")


def compare_score_table(options: argparse.Namespace) -> dict[str, Any]:
    """The comparison of the table that the options name.

    Raises:
        SpecError: an option is wrong, or names what the table does not have.
        DataError: the table cannot be used.
    """
    seed = 0 if options.seed is None else options.seed
    resamples = 10_000 if options.resamples is None else options.resamples
    if seed < 0:
        raise SpecError(f"--seed must be 0 or more, but got {seed}")
    if not _LEAST_RESAMPLES <= resamples <= _MOST_RESAMPLES:
        raise SpecError(f"--resamples must be from {_LEAST_RESAMPLES} to {_MOST_RESAMPLES:,}, but got {resamples}")
    path = Path(options.table)
    rows = read_score_table(path, _columns(options.column or []), required=("recipe", "protocol", "score"))
    protocols = protocols_in(rows)
    _known("--truth", options.truth, protocols, "protocol", path)
    candidates = tuple(dict.fromkeys(options.candidate or [name for name in protocols if name != options.truth]))
    for name in candidates:
        _known("--candidate", name, protocols, "protocol", path)
    if options.truth in candidates:
        raise SpecError(f"--candidate must be another protocol than the truth, but both are {options.truth!r}")
    if not candidates:
        raise SpecError(f"{path} must have a protocol beside the truth, but has {options.truth!r} only")
    metrics = metrics_in(rows)
    negated = options.higher_is_better
    for name in negated or []:
        _known("--higher-is-better", name, metrics, "metric", path)
    higher = frozenset(() if negated is None else negated or metrics)
    return compare_table(rows, TableQuestion(path.name, options.truth, candidates, higher, seed, resamples))


def _columns(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        noun, sign, column = text.partition("=")
        if noun not in COLUMNS:
            raise SpecError(f"--column must be NOUN=COLUMN, but got {text!r}. {_guess(noun, COLUMNS)}")
        if not sign or not column:
            raise SpecError(f"--column must be NOUN=COLUMN, but got {text!r}. Name the table's column after '='")
        if noun in found:
            raise SpecError(f"--column must name each noun once, but {noun!r} comes twice")
        found[noun] = column
    return found


def _known(option: str, name: str, known: Sequence[str], noun: str, path: Path) -> None:
    if name not in known:
        raise SpecError(f"{option} must be a {noun} of {path}, but got {name!r}. {_guess(name, known)}")


def _guess(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    shown = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
    return f"Did you mean {close[0]!r}?" if close else f"There are {shown}"
