"""The figure of agreement against steps: the step budgets that one run per recipe gives. Knows nothing about HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from raystudy.report.drawing import (
    COLOURS,
    MARKERS,
    WIDE_INCHES,
    as_written,
    is_narrow,
    label,
    new_figure,
    say_nothing_to_draw,
    style_axes,
    text_size,
)
from raystudy.report.wording import primary_metric, unit_of

Entry = Mapping[str, Any]


def step_series(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Candidates that differ in their step alone, by the name they share, in order of step; only several of a name."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.get("step") is not None:
            name = str(entry["candidate"]).replace(f"@step{entry['step']}", "", 1)
            found.setdefault(name, []).append(entry)
    return {name: sorted(many, key=lambda e: int(e["step"])) for name, many in found.items() if len(many) > 1}


def _plot(axes: Axes, name: str, points: Sequence[tuple[int, float | None]], look: Mapping[str, Any]) -> None:
    drawn = [(step, value) for step, value in points if value is not None]
    axes.plot([step for step, _ in drawn], [value for _, value in drawn], label=label(name, 28), **look)


def agreement_by_step(
    comparison: Mapping[str, Any], metric: str | None = None, *, width_inches: float = WIDE_INCHES
) -> Figure:
    """Spearman with the truth, and below it the mean loss, against the steps trained (log axis); a line per protocol.

    Whiskers are the 95% `these recipes` intervals.
    """
    metric = metric or primary_metric(comparison)
    series = step_series([entry for entry in comparison["comparisons"] if entry["metric"] == metric])
    narrow = is_narrow(width_inches)
    figure = new_figure(width_inches, 4.0 + 0.2 * len(series))
    if not series:
        say_nothing_to_draw(figure.subplots(), "No protocol is scored at several steps.", width_inches)
        return figure
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for place, (name, entries) in enumerate(series.items()):
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        _plot(top, name, [(entry["step"], entry["spearman"]["value"]) for entry in entries], look)
        _plot(bottom, name, [(entry["step"], entry["mean_loss"]) for entry in entries], look)
        bounds = [(e["step"], e["spearman"]["these_recipes"]) for e in entries if e["spearman"]["these_recipes"]]
        for step, interval in bounds:
            top.vlines(step, interval["low"], interval["high"], color=look["color"], linewidth=1.4)
    top.set_ylim(min(-0.06, top.get_ylim()[0]), 1.06)
    top.set_ylabel("Spearman with the truth")
    bottom.set_ylabel("Mean loss" if narrow else f"Mean {label(metric, 24)} ({unit_of(comparison)})")
    bottom.set_xlabel("Steps trained (log scale)")
    as_written([bottom.yaxis.label])
    bottom.set_xscale("log")
    steps = sorted({int(entry["step"]) for entries in series.values() for entry in entries})
    bottom.xaxis.set_major_locator(FixedLocator(steps[:: max(1, -(-len(steps) // (4 if narrow else 8)))]))
    bottom.xaxis.set_minor_locator(NullLocator())
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in (top, bottom):
        style_axes(axes, width_inches, grid="y")
    top.tick_params(labelbottom=False)
    handles, _ = top.get_legend_handles_labels()
    legend = figure.legend(
        handles=handles, loc="outside upper left", ncols=1 if narrow else 2, frameon=False,
        fontsize=text_size(width_inches),
    )  # fmt: skip
    as_written(legend.get_texts())
    return figure
