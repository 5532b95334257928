"""FIGUREs of a comparison -> table cells with footnotes. Knows nothing about which tables there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raystudy.report.wording import DASH, interval, number, reason_for


@dataclass(frozen=True)
class Footnote:
    """Why something is missing, and where the page says so."""

    number: int
    anchor: str
    reason: str


@dataclass
class Footnotes:
    """The footnotes of one table; a reason that comes twice is one footnote."""

    table: str
    items: list[Footnote] = field(default_factory=list)

    def mark(self, reason: str) -> Footnote:
        """The footnote for `reason`."""
        for item in self.items:
            if item.reason == reason:
                return item
        place = len(self.items) + 1
        self.items.append(Footnote(place, f"{self.table}-note-{place}", reason))
        return self.items[-1]


@dataclass(frozen=True)
class Cell:
    """What a table cell shows: text, smaller lines below it, and a footnote for what is missing."""

    text: str
    below: tuple[str, ...] = ()
    note: Footnote | None = None
    is_numeric: bool = True
    is_marked: bool = False


def figure_cell(
    figures: Mapping[str, Any],
    name: str,
    notes: Sequence[Mapping[str, str]],
    footnotes: Footnotes,
    *,
    digits: int = 2,
    extra: tuple[str, ...] = (),
    is_marked: bool = False,
) -> Cell:
    """The FIGURE at `name` (a dotted path into `figures`) with its intervals; null is a dash with its reason."""
    found: Any = figures
    for key in name.split("."):
        found = found[key]
    if found["value"] is None:
        return Cell(DASH, extra, footnotes.mark(reason_for(notes, name)))
    bounds = interval(found["these_recipes"], digits)
    note = None
    if bounds is None:
        bounds = "no interval"
        note = footnotes.mark(reason_for(notes, name, "these_recipes"))
    wider = interval(found["recipes_like_these"], digits)
    likes = () if wider is None else (f"recipes like these {wider}",)
    return Cell(number(found["value"], digits), (bounds, *likes, *extra), note, is_marked=is_marked)


def words(text: str, *below: str) -> Cell:
    """A cell of words."""
    return Cell(text, below, is_numeric=False)
