"""Figures of a comparison, each a matplotlib Figure that notebooks can show or save.

Reads a comparison (format raystudy-comparison/1) and computes nothing from it. Knows nothing about HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raystudy.report.drawing import (
    BLUE,
    COLOURS,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    SHADE,
    WIDE_INCHES,
    as_written,
    is_narrow,
    label,
    log_lr_axis,
    lr_bounds,
    new_figure,
    say_nothing_to_draw,
    style_axes,
    style_rows,
    text_size,
)
from raystudy.report.sweep_figures import lr_curves, tuned_losses
from raystudy.report.wording import primary_metric, unit_of

__all__ = ["agreement_by_lr", "agreement_of_protocols", "is_mostly_barely_trained", "lr_curves", "tuned_losses"]

Entry = Mapping[str, Any]
_LEVEL_STYLES = (":", "-.", (0, (5, 1, 1, 1, 1, 1)))  # of levels; dashes are the unigram floor's
FLOOR_LABEL = "not below the unigram floor"


def agreement_by_lr(
    comparison: Mapping[str, Any], metric: str | None = None, *, width_inches: float = WIDE_INCHES
) -> Figure:
    """Spearman with the truth, and below it the mean loss, against the proxy's learning rate (log axis).

    A line per lr-ladder, a single larger marker per other candidate with a learning rate; whiskers are the
    95% `these recipes` intervals. A point is hollow where most recipes are not below the unigram floor, and a
    learning rate is shaded where all its points are.
    """
    metric = metric or primary_metric(comparison)
    entries = [entry for entry in comparison["comparisons"] if entry["metric"] == metric]
    series = _series([entry for entry in entries if entry["lr"] is not None])
    narrow = is_narrow(width_inches)
    num_lines = (len(series) + 3) if narrow else (len(series) + 4) // 2
    figure = new_figure(width_inches, (4.4 if narrow else 5.0) + 0.17 * num_lines)
    if not series:
        say_nothing_to_draw(figure.subplots(), "No candidate has a learning rate.", width_inches)
        return figure
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    num_recipes = len(comparison["recipes"])
    lrs = [entry["lr"] for one in series for entry in one.entries]
    handles = _draw_agreement(top, series, num_recipes)
    tuned = [entry for entry in entries if entry["kind"] == "tuned" and entry["lr"] is None]
    handles += _draw_tuned_lines(top, tuned)
    handles += _draw_losses(bottom, series, num_recipes)
    handles += _shade_barely_trained((top, bottom), series, num_recipes)
    _spearman_limits(top.set_ylim, [entry["spearman"] for entry in entries])
    top.set_ylabel("Spearman with the truth")
    bottom.set_ylabel("Mean loss" if narrow else f"Mean {label(metric, 24)} ({unit_of(comparison)})")
    bottom.set_xlabel("Learning rate of the proxy (log scale)")
    as_written([bottom.yaxis.label])
    for axes in (top, bottom):
        style_axes(axes, width_inches, grid="y")
    bottom.margins(y=0.12)
    log_lr_axis(bottom, lrs, width_inches)
    top.tick_params(labelbottom=False)
    legend = figure.legend(
        handles=handles, loc="outside upper left", ncols=1 if narrow else 2, frameon=False,
        labelspacing=0.6,
        fontsize=text_size(width_inches),
    )  # fmt: skip
    as_written(legend.get_texts())
    return figure


@dataclass(frozen=True)
class _Series:
    """Points drawn alike: an lr-ladder, or one candidate by itself."""

    name: str
    entries: list[Entry]
    is_ladder: bool
    colour: str
    marker: str

    @property
    def look(self) -> dict[str, Any]:
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": "-" if self.is_ladder else "none",
            "linewidth": 1.6,
            "markersize": 5.5 if self.is_ladder else 9.0,
            "zorder": 4 if self.is_ladder else 3,
        }


def _series(entries: Sequence[Entry]) -> list[_Series]:
    ladders: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry["ladder"] is not None:
            ladders.setdefault(entry["ladder"], []).append(entry)
    groups = [(name, sorted(points, key=lambda entry: entry["lr"]), True) for name, points in ladders.items()]
    groups += [(entry["candidate"], [entry], False) for entry in entries if entry["ladder"] is None]
    return [
        _Series(name, points, is_ladder, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, (name, points, is_ladder) in enumerate(groups)
    ]


def is_mostly_barely_trained(entry: Entry, num_recipes: int) -> bool:
    """Whether more than half of the recipes have a run that is not below the unigram floor."""
    return 2 * len(entry["guards"]["barely_trained"]) > max(num_recipes, 1)


def _draw_agreement(axes: Axes, series: Sequence[_Series], num_recipes: int) -> list[Any]:
    for one in series:
        for entry in one.entries:
            interval = entry["spearman"]["these_recipes"]
            if interval is not None:
                axes.vlines(entry["lr"], interval["low"], interval["high"], color=one.colour, linewidth=1.4, zorder=2)
        points = [(entry["lr"], entry["spearman"]["value"]) for entry in one.entries]
        _plot(axes, one, points, num_recipes)
    return [Line2D([], [], **one.look, label=_legend_name(one)) for one in series]


def _legend_name(one: _Series) -> str:
    if one.is_ladder:
        return f"{label(one.name, 22)} (one point per LR)"
    return f"{label(one.name, 24)} (LR {one.entries[0]['lr']:.3g})"


def _plot(axes: Axes, one: _Series, points: Sequence[tuple[float, float | None]], num_recipes: int) -> None:
    drawn = [(lr, value) for lr, value in points if value is not None]
    axes.plot([lr for lr, _ in drawn], [value for _, value in drawn], label=label(one.name), **one.look)
    for entry, (lr, value) in zip(one.entries, points, strict=True):
        if value is not None and is_mostly_barely_trained(entry, num_recipes):
            axes.plot([lr], [value], **{**one.look, "linestyle": "none"}, markerfacecolor="white")


def _draw_tuned_lines(axes: Axes, tuned: Sequence[Entry]) -> list[Any]:
    """A protocol tuned per recipe has no single learning rate: a level instead of a point."""
    levels = [entry for entry in tuned if entry["spearman"]["value"] is not None]
    return [
        axes.axhline(
            entry["spearman"]["value"], color=INK, linestyle=_LEVEL_STYLES[place % len(_LEVEL_STYLES)], linewidth=1.3,
            zorder=1, label=f"{label(entry['candidate'], 24)} (tuned per recipe)",
        )
        for place, entry in enumerate(levels)
    ]  # fmt: skip


def _draw_losses(axes: Axes, series: Sequence[_Series], num_recipes: int) -> list[Any]:
    floors = {
        entry["lr"]: entry["mean_unigram_loss"]
        for one in series
        for entry in one.entries
        if entry["mean_unigram_loss"] is not None
    }
    for one in series:
        _plot(axes, one, [(entry["lr"], entry["mean_loss"]) for entry in one.entries], num_recipes)
    if not floors:
        return []
    look: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.3, "label": "mean unigram floor"}
    low, high = min(floors), max(floors)
    ends = lr_bounds([entry["lr"] for one in series for entry in one.entries])
    lrs = [ends[0], *sorted(floors), ends[-1]]
    return list(axes.plot(lrs, [floors[min(max(lr, low), high)] for lr in lrs], zorder=1, **look))


def _shade_barely_trained(panels: Sequence[Axes], series: Sequence[_Series], num_recipes: int) -> list[Any]:
    flags: dict[float, bool] = {}
    for one in series:
        for entry in one.entries:
            flags[entry["lr"]] = flags.get(entry["lr"], True) and is_mostly_barely_trained(entry, num_recipes)
    bounds = lr_bounds(list(flags))
    for place, lr in enumerate(sorted(flags)):
        if flags[lr]:
            for axes in panels:
                axes.axvspan(bounds[place], bounds[place + 1], color=SHADE, linewidth=0, zorder=0, label="_floor")
    if not any(flags.values()):
        return []
    return [Patch(color=SHADE, label=f"most recipes {FLOOR_LABEL}")]


def _spearman_limits(set_limits: Any, figures: Sequence[Mapping[str, Any]]) -> None:
    """From 0 (no agreement) or lower to 1, so that a small difference does not look large."""
    set_limits(min(-0.06, *(low - 0.06 for low in _lowest(figures))), 1.06)


def _lowest(figures: Sequence[Mapping[str, Any]]) -> list[float]:
    lows = [figure["these_recipes"]["low"] for figure in figures if figure["these_recipes"] is not None]
    return [*lows, *(figure["value"] for figure in figures if figure["value"] is not None), 1.0]


def agreement_of_protocols(
    comparison: Mapping[str, Any], metric: str | None = None, *, width_inches: float = WIDE_INCHES
) -> Figure:
    """A row per candidate: Spearman with the truth and decision accuracy, each with its 95% interval."""
    metric = metric or primary_metric(comparison)
    entries = [entry for entry in comparison["comparisons"] if entry["metric"] == metric]
    figure = new_figure(width_inches, 0.85 + 0.28 * max(len(entries), 2))
    if not entries:
        say_nothing_to_draw(figure.subplots(), "No candidate has scores.", width_inches)
        return figure
    left, right = figure.subplots(1, 2, sharey=True)
    style_rows(left, [entry["candidate"] for entry in entries], width_inches)
    _draw_rows(left, [entry["spearman"] for entry in entries], BLUE, "o", width_inches)
    _draw_rows(right, [entry["decision_accuracy"] for entry in entries], GREEN, "s", width_inches)
    _spearman_limits(left.set_xlim, [entry["spearman"] for entry in entries])
    right.set_xlim(min(0.47, *(low - 0.03 for low in _lowest([entry["decision_accuracy"] for entry in entries]))), 1.03)
    left.set_xlabel("Spearman")
    right.set_xlabel("Decision accuracy")
    for axes, chance in ((left, 0.0), (right, 0.5)):
        style_axes(axes, width_inches, grid="x")
        axes.axvline(chance, color=MUTED, linestyle="--", linewidth=1.0, zorder=1)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def _draw_rows(axes: Axes, figures: Sequence[Mapping[str, Any]], colour: str, marker: str, width_inches: float) -> None:
    for row, figure in enumerate(figures):
        interval = figure["these_recipes"]
        if interval is not None:
            axes.hlines(row, interval["low"], interval["high"], color=colour, linewidth=1.6, zorder=2)
        if figure["value"] is None:
            axes.annotate(
                "no value", (0.03, row), xycoords=("axes fraction", "data"), va="center", color=MUTED,
                fontsize=text_size(width_inches) - 1,
            )  # fmt: skip
    drawn = [(row, figure["value"]) for row, figure in enumerate(figures) if figure["value"] is not None]
    axes.plot(
        [value for _, value in drawn], [row for row, _ in drawn], linestyle="none", marker=marker, color=colour,
        markersize=6, zorder=3,
    )  # fmt: skip
