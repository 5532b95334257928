"""Figures of the truth's sweep: tuned loss per recipe, and each recipe's loss against learning rate.

Reads a comparison's `tuned_losses` and computes nothing from it. Knows nothing about HTML.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from raystudy.report.drawing import (
    BLUE,
    MUTED,
    VERMILLION,
    WIDE_INCHES,
    is_narrow,
    label,
    log_lr_axis,
    new_figure,
    say_nothing_to_draw,
    style_axes,
    style_rows,
    text_size,
)
from raystudy.report.wording import unit_of

Tuned = Mapping[str, Any]
_EDGE_MARKERS = {"low": "<", "high": ">"}
_EDGE_WORDS = {"low": "← edge", "high": "edge →"}
# Recipes further above the best than this many times the range of the recipes that are not controls are drawn
# at the border with their value, so that near-ties stay apart. An assumption, chosen by eye.
_MOST_STRETCH = 1.6
_VERMILLION_TEXT = "#A84A00"  # darker than the palette's: contrast with white 5.5
_PANEL_INCHES = 2.0  # for ticks: a panel has room for as many as a narrow figure


def tuned_losses(comparison: Mapping[str, Any], *, width_inches: float = WIDE_INCHES) -> Figure:
    """A row per recipe, lowest tuned loss first, with one standard error to each side and the best LR.

    Hollow: a control. Triangle: the best learning rate is on the grid's edge, and points to where it continues.
    Square: another setting of the best point is on an edge.
    """
    rows = sorted(comparison["tuned_losses"], key=lambda row: math.inf if row["loss"] is None else row["loss"])
    figure = new_figure(width_inches, 1.05 + 0.26 * max(len(rows), 2))
    axes = figure.subplots()
    known = [row for row in rows if row["loss"] is not None]
    if not known:
        say_nothing_to_draw(axes, "No recipe has a tuned loss.", width_inches)
        return figure
    controls = {recipe["name"] for recipe in comparison["recipes"] if recipe["control"]}
    style_rows(axes, [row["recipe"] for row in rows], width_inches)
    low, high = _loss_limits(known, controls)
    axes.set_xlim(low, high)
    for place, row in enumerate(rows):
        _draw_recipe(axes, place, row, row["recipe"] in controls, width_inches)
    axes.set_xlabel(f"Tuned loss ({unit_of(comparison)}), ± 1 standard error", parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(4 if is_narrow(width_inches) else 7))
    style_axes(axes, width_inches, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    size = text_size(width_inches)
    axes.text(1.03, 1.0, "best LR", transform=axes.transAxes, va="bottom", color=MUTED, fontsize=size)
    look: dict[str, Any] = {"color": BLUE, "linestyle": "none", "markersize": 6}
    handles = [
        Line2D([], [], marker="o", label="recipe", **look),
        Line2D([], [], marker="o", markerfacecolor="white", label="control", **look),
        Line2D([], [], marker=">", label="best LR on the grid's edge", **look),
    ]
    if any(row["edge"] and " " in row["edge"].removeprefix("lr ") for row in rows):
        handles.append(Line2D([], [], marker="s", label="another setting on its edge", **look))
    num_columns = 2 if len(handles) > 3 and is_narrow(width_inches) else len(handles)
    figure.legend(
        handles=handles, loc="outside upper left", ncols=num_columns, frameon=False, fontsize=size, handletextpad=0.1,
        columnspacing=1.2,
    )  # fmt: skip
    return figure


def _loss_limits(known: Sequence[Tuned], controls: set[str]) -> tuple[float, float]:
    headline = [row for row in known if row["recipe"] not in controls] or list(known)
    spread = [(row["loss"], row["standard_error"] or 0.0) for row in headline]
    low, high = min(loss - error for loss, error in spread), max(loss + error for loss, error in spread)
    span = max(high - low, 1e-6 * max(abs(high), 1.0))
    furthest = max(row["loss"] + (row["standard_error"] or 0.0) for row in known)
    low = min(low, *(row["loss"] for row in known), low)
    has_room = furthest <= low + _MOST_STRETCH * span
    return low - 0.06 * span, (max(high, furthest) + 0.06 * span if has_room else high + 0.25 * span)


def _draw_recipe(axes: Axes, place: int, row: Tuned, is_control: bool, width_inches: float) -> None:
    size = text_size(width_inches)
    if row["loss"] is None:
        axes.annotate(
            "no tuned loss", (0.02, place), xycoords=("axes fraction", "data"), va="center", color=MUTED, fontsize=size
        )
        return
    right = axes.get_xlim()[1]
    edge = None if row["edge"] is None else row["edge"].removeprefix("lr ")
    marker = "o" if edge is None else _EDGE_MARKERS.get(edge, "s")
    if row["loss"] > right:
        axes.annotate(
            f"{row['loss']:.3f} →", (0.99, place), xycoords=("axes fraction", "data"), ha="right", va="center",
            color=BLUE, fontsize=size,
        )  # fmt: skip
    else:
        error = row["standard_error"]
        if error is not None:
            axes.hlines(place, row["loss"] - error, row["loss"] + error, color=BLUE, linewidth=1.6, zorder=2)
        axes.plot(
            [row["loss"]], [place], color=BLUE, marker=marker, markersize=6, zorder=3,
            markerfacecolor="white" if is_control else BLUE,
        )  # fmt: skip
    words = "–" if row["best_lr"] is None else f"{row['best_lr']:.3g}"
    if edge is not None:
        words += f" {_EDGE_WORDS.get(edge, 'edge')}"
    axes.annotate(
        words, (1.03, place), xycoords=("axes fraction", "data"), va="center", fontsize=size,
        color=_VERMILLION_TEXT if edge is not None else MUTED, annotation_clip=False,
    )  # fmt: skip


def lr_curves(comparison: Mapping[str, Any], *, width_inches: float = WIDE_INCHES) -> Figure:
    """A small panel per recipe: loss against learning rate, seeds as dots, the best point marked.

    Where other settings are swept too, the best over them at each learning rate; random points have no line.

    All panels have one scale but not one origin: each is shifted to its recipe's best loss. A learning rate at
    which a run diverged is a cross on top; a line may leave its panel there.
    """
    rows = comparison["tuned_losses"]
    num_columns = 2 if is_narrow(width_inches) else 4
    num_rows = max(1, math.ceil(len(rows) / num_columns))
    figure = new_figure(width_inches, 0.35 + 1.45 * num_rows)
    if not rows:
        say_nothing_to_draw(figure.subplots(), "No sweep to draw.", width_inches)
        return figure
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True).flatten()
    span = _common_span(rows)
    lrs = sorted({point["lr"] for row in rows for point in row["curve"]})
    for axes, row in zip(panels, rows, strict=False):
        _draw_curve(axes, row, span)
        style_axes(axes, width_inches, grid="both")
        axes.tick_params(labelsize=text_size(width_inches) - 1.5)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(label(row["recipe"], 20), fontsize=text_size(width_inches), loc="left", parse_math=False)
    for place, axes in enumerate(panels):
        if place >= len(rows):
            axes.set_axis_off()
        elif place + num_columns >= len(rows):
            axes.tick_params(labelbottom=True)
    if lrs:
        log_lr_axis(panels[0], lrs, _PANEL_INCHES)
    figure.supxlabel("Learning rate (log scale)", fontsize=text_size(width_inches))
    figure.supylabel(f"Loss ({unit_of(comparison)})", fontsize=text_size(width_inches))
    return figure


def _common_span(rows: Sequence[Tuned]) -> float:
    """Height of every panel: the median recipe's rise from its best to its worst point."""
    rises = []
    for row in rows:
        means = [point["mean"] for point in row["curve"] if point["mean"] is not None]
        if len(means) > 1 and max(means) > min(means):
            rises.append(max(means) - min(means))
    return 1.25 * statistics.median(rises) if rises else 1.0


def _draw_curve(axes: Axes, row: Tuned, span: float) -> None:
    drawn = [(point["lr"], point["mean"]) for point in row["curve"] if point["mean"] is not None]
    seeds = [(point["lr"], loss) for point in row["curve"] for loss in point["losses"] if loss is not None]
    axes.plot([lr for lr, _ in seeds], [loss for _, loss in seeds], linestyle="none", marker=".", color=MUTED, ms=3)
    look: dict[str, Any] = {"linestyle": "none", "ms": 4} if row.get("is_random") else {"linewidth": 1.4, "ms": 2.5}
    axes.plot([lr for lr, _ in drawn], [loss for _, loss in drawn], color=BLUE, marker="o", **look)
    lowest = min([loss for _, loss in drawn] + ([] if row["loss"] is None else [row["loss"]]), default=0.0)
    axes.set_ylim(lowest - 0.15 * span, lowest + span)
    if row["best_lr"] is not None and row["loss"] is not None:
        axes.plot([row["best_lr"]], [row["loss"]], marker="D", color=VERMILLION, ms=6, linestyle="none", zorder=4)
    for lr in row["diverged_lrs"]:
        axes.plot([lr], [0.93], transform=axes.get_xaxis_transform(), marker="x", color=VERMILLION, ms=6, mew=1.8)
