"""The table of a study of two recipes: the gap between them on each side, and which is better."""

from raystudy.report.cells import Cell, Footnotes, words
from raystudy.report.tables import LOSS_DIGITS, Comparison, Entry, Table, primary_entries
from raystudy.report.wording import DASH, interval, number, reason_for, unit_of


def gap_table(comparison: Comparison) -> Table:
    """Where only two recipes are compared: how far apart they are on each side, and which is better."""
    columns = [
        ("Protocol", ""),
        ("A", ""),
        ("B", ""),
        ("Truth, A − B", f"{unit_of(comparison)} [95%]"),
        ("P(A better)", "by the truth"),
        ("Protocol, A − B", f"{unit_of(comparison)} [95%]"),
        ("P(A better)", "by the protocol"),
        ("Same choice", ""),
    ]
    table = Table("gap", "The gap of the two recipes (primary metric); below 0 A is better", columns)
    for entry in primary_entries(comparison):
        gap = entry.get("gap")
        if gap is not None:
            sides = [cell for side in ("truth", "candidate") for cell in _gap_cells(entry, side, table.footnotes)]
            row = [words(entry["candidate"]), words(gap["a"]), words(gap["b"]), *sides]
            table.rows.append([*row, words(_same_choice(gap["truth"]["outcome"], gap["candidate"]["outcome"]))])
    return table


def _gap_cells(entry: Entry, side: str, marks: Footnotes) -> tuple[Cell, Cell]:
    found, field = entry["gap"][side], f"gap.{side}"
    if found["value"] is None:
        why = marks.mark(reason_for(entry["notes"], field))
        return Cell(DASH, (), why), Cell("undecided", (), why)
    bounds = interval(found["these_recipes"], LOSS_DIGITS)
    note = None if bounds else marks.mark(reason_for(entry["notes"], field, "these_recipes"))
    probability = found["probability_a_better"]
    chance = Cell("undecided", (), note) if probability is None else Cell(number(probability, 3))
    return Cell(number(found["value"], LOSS_DIGITS), (bounds or "no interval",), note), chance


def _same_choice(truth: str, candidate: str) -> str:
    if "undecided" in (truth, candidate):
        return "undecided"
    return "yes" if truth == candidate else "no"
