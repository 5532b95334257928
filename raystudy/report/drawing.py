"""How every figure looks: palette, markers, axes, labels. Knows nothing about comparisons.

Object API only: no pyplot, no rcParams. Names from a study go through `label` and are never read as mathtext.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

# Okabe and Ito's palette without its yellow (too pale on white); shapes repeat what colours say.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
INK, MUTED, GRID, SHADE = "#222222", "#595959", "#E3E3E3", "#ECECEC"

WIDE_INCHES = 8.0
NARROW_INCHES = 3.9
_NARROW_BELOW_INCHES = 5.5
_SMALLEST_POSITIVE = 1e-300
# They would turn the text beside a name.
_BIDI_CONTROLS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def is_narrow(width_inches: float) -> bool:
    """Whether a figure is drawn for a phone's width."""
    return width_inches < _NARROW_BELOW_INCHES


def text_size(width_inches: float) -> float:
    """Size of ordinary text, in points."""
    return 8.0 if is_narrow(width_inches) else 9.0


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """An empty white figure whose layout makes room for its labels."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="white")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.05, h_pad=0.05)
    return figure


def label(text: object, most_characters: int = 40) -> str:
    """One line of at most `most_characters`, cut in the middle (names often differ at their end)."""
    shown = "".join(_printable(character) for character in str(text)).strip()
    if len(shown) <= most_characters:
        return shown
    tail = (most_characters - 1) // 2
    return f"{shown[: most_characters - 1 - tail]}…{shown[-tail:]}"


def _printable(character: str) -> str:
    if character.isspace():
        return " "
    # Control characters, lone surrogates and two non-characters are not allowed in XML.
    is_forbidden = unicodedata.category(character) in {"Cc", "Cs"} or character in "\ufffe\uffff"
    return "\ufffd" if is_forbidden or character in _BIDI_CONTROLS else character


def as_written(texts: Sequence[Text]) -> None:
    """Show `$x$` as it is written."""
    for text in texts:
        text.set_parse_math(False)


def style_axes(axes: Axes, width_inches: float, *, grid: str) -> None:
    """Quiet frame, grid along `grid` ("x", "y" or "both")."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]  # stubs want a Literal
    axes.tick_params(labelsize=text_size(width_inches), color=MUTED, labelcolor=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(text_size(width_inches))
        axis.label.set_color(INK)


def style_rows(axes: Axes, names: Sequence[str], width_inches: float) -> None:
    """One row per name, the first on top, names on the left."""
    axes.set_yticks(range(len(names)), [label(name, 16 if is_narrow(width_inches) else 34) for name in names])
    as_written(axes.get_yticklabels())
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def log_lr_axis(axes: Axes, lrs: Sequence[float], width_inches: float) -> None:
    """A logarithmic x axis that covers `lrs`, with ticks written as plain numbers."""
    axes.set_xscale("log")
    edges = lr_bounds(lrs)
    low, high = edges[0], edges[-1]
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    decades = math.log10(high / low)
    if decades < 1.2:
        axes.xaxis.set_major_locator(FixedLocator(_thinned(sorted(set(lrs)), 3 if is_narrow(width_inches) else 6)))
        return
    subs = (1.0, 3.0) if decades < (2.2 if is_narrow(width_inches) else 4.0) else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(base=10.0, subs=subs, numticks=7 if is_narrow(width_inches) else 12))


def lr_bounds(lrs: Sequence[float]) -> list[float]:
    """Bounds of the region of each learning rate (sorted, without repeats), halfway on the log axis: one more."""
    points = [math.log10(max(lr, _SMALLEST_POSITIVE)) for lr in sorted(set(lrs))]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(points)]
    first = 2 * points[0] - middles[0] if middles else points[0] - 0.3
    last = 2 * points[-1] - middles[-1] if middles else points[-1] + 0.3
    return [10.0**bound for bound in (first, *middles, last)]


def _thinned(values: Sequence[float], at_most: int) -> list[float]:
    step = math.ceil(len(values) / at_most)
    return list(values[::step])


def say_nothing_to_draw(axes: Axes, reason: str, width_inches: float) -> None:
    """An empty panel that says why."""
    axes.set_axis_off()
    text = axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=MUTED, wrap=True)
    text.set_fontsize(text_size(width_inches))
