"""Figures plot the values they are given, on a logarithmic axis of learning rates."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from raystudy.report.drawing import NARROW_INCHES, WIDE_INCHES, label
from raystudy.report.figures import agreement_by_lr, agreement_of_protocols, lr_curves, tuned_losses
from raystudy.report.inline_svg import inline_svg
from raystudy.report.page import render_page
from raystudy.report.step_figures import agreement_by_step, step_series
from tests.report.example_comparison import BARELY_TRAINED_LR, GRID, LRS, make_null_comparison

DRAWERS = [agreement_by_lr, agreement_of_protocols, lr_curves, tuned_losses]


def line(axes: Axes, name: str) -> tuple[list[float], list[float]]:
    found = next(one for one in axes.get_lines() if one.get_label() == name)
    return [float(x) for x in found.get_xdata()], [float(y) for y in found.get_ydata()]


def entries(comparison: dict[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    return {entry["candidate"]: entry for entry in comparison["comparisons"] if entry["metric"] == metric}


@pytest.mark.parametrize("metric", ["loss", "loss/source"])
def test_agreement_by_lr_plots_the_ladder_and_the_other_protocols(comparison: dict[str, Any], metric: str) -> None:
    top, bottom = agreement_by_lr(comparison, metric).axes
    by_name = entries(comparison, metric)
    ladder = [by_name[f"ladder@{lr:g}"] for lr in LRS]
    assert top.get_xscale() == bottom.get_xscale() == "log"
    assert line(top, "ladder") == (list(LRS), [entry["spearman"]["value"] for entry in ladder])
    assert line(bottom, "ladder") == (list(LRS), [entry["mean_loss"] for entry in ladder])
    assert line(top, "reduced") == ([2e-4], [by_name["reduced"]["spearman"]["value"]])
    assert set(line(bottom, "mean unigram floor")[1]) == {5.87}


def test_agreement_by_lr_draws_every_interval_as_it_is(comparison: dict[str, Any]) -> None:
    top = agreement_by_lr(comparison).axes[0]
    drawn = set()
    for collection in top.collections:
        assert isinstance(collection, LineCollection)
        for low, high in collection.get_segments():
            drawn.add((low[0], low[1], high[1]))
    given = {
        (entry["lr"], bounds["low"], bounds["high"])
        for entry in entries(comparison, "loss").values()
        if entry["lr"] is not None and (bounds := entry["spearman"]["these_recipes"]) is not None
    }
    assert drawn == given


def test_learning_rates_not_below_the_unigram_floor_are_shaded_and_labelled(comparison: dict[str, Any]) -> None:
    figure = agreement_by_lr(comparison)
    for axes in figure.axes:
        (shade,) = [patch for patch in axes.patches if patch.get_label() == "_floor"]
        low, high = shade.get_extents().transformed(axes.transData.inverted()).intervalx
        assert low < BARELY_TRAINED_LR < high < LRS[1]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "most recipes not below the unigram floor" in labels
    for entry in comparison["comparisons"]:
        entry["guards"]["barely_trained"] = entry["guards"]["barely_trained"][:4]
    figure = agreement_by_lr(comparison)
    assert not any(patch.get_label() == "_floor" for axes in figure.axes for patch in axes.patches)


def test_agreement_of_protocols_has_a_row_per_candidate(comparison: dict[str, Any]) -> None:
    left, right = agreement_of_protocols(comparison).axes
    by_name = entries(comparison, "loss")
    assert [text.get_text() for text in left.get_yticklabels()] == list(by_name)
    (dots,) = [one for one in left.get_lines() if one.get_marker() == "o"]
    assert list(dots.get_xdata()) == [entry["spearman"]["value"] for entry in by_name.values()]
    (dots,) = [one for one in right.get_lines() if one.get_marker() == "s"]
    assert list(dots.get_xdata()) == [entry["decision_accuracy"]["value"] for entry in by_name.values()]


def test_tuned_losses_are_sorted_and_edges_and_controls_are_marked(comparison: dict[str, Any]) -> None:
    for row in comparison["tuned_losses"]:
        row["loss"] = 4.1 if row["recipe"] == "shuffled-words" else row["loss"]
    (axes,) = tuned_losses(comparison).axes
    rows = sorted(comparison["tuned_losses"], key=lambda row: row["loss"])
    assert [text.get_text() for text in axes.get_yticklabels()] == [row["recipe"] for row in rows]
    assert [float(one.get_xdata()[0]) for one in axes.get_lines()] == [row["loss"] for row in rows]
    markers = dict(zip((row["recipe"] for row in rows), axes.get_lines(), strict=True))
    assert markers["corpus-sources"].get_marker() == ">"
    assert markers["shuffled-words"].get_markerfacecolor() == "white"
    assert any("edge" in text.get_text() for text in axes.texts)


def test_a_control_far_off_is_a_number_at_the_border(comparison: dict[str, Any]) -> None:
    (axes,) = tuned_losses(comparison).axes
    assert axes.get_xlim()[1] < 4.3
    assert any(text.get_text().startswith("5.28") for text in axes.texts)


def test_lr_curves_have_a_panel_per_recipe_with_the_best_point_marked(comparison: dict[str, Any]) -> None:
    panels = lr_curves(comparison).axes
    for axes, row in zip(panels, comparison["tuned_losses"], strict=True):
        assert axes.get_xscale() == "log"
        assert axes.get_title(loc="left") == row["recipe"]
        (best,) = [one for one in axes.get_lines() if one.get_marker() == "D"]
        assert (best.get_xdata()[0], best.get_ydata()[0]) == (row["best_lr"], row["loss"])
        (curve,) = [one for one in axes.get_lines() if one.get_linestyle() == "-" and one.get_marker() == "o"]
        assert list(curve.get_ydata()) == [point["mean"] for point in row["curve"] if point["mean"] is not None]
        crosses = [one.get_xdata()[0] for one in axes.get_lines() if one.get_marker() == "x"]
        assert crosses == ([GRID[-1]] if row["recipe"] == "filter-head" else [])


@pytest.mark.parametrize("draw", DRAWERS)
@pytest.mark.parametrize("width", [WIDE_INCHES, NARROW_INCHES])
def test_any_name_shows_as_written_without_warnings(comparison: dict[str, Any], draw: Any, width: float) -> None:
    name = "<b>$x$ & 数据 بيانات \x00 " + "long" * 40
    for entry in comparison["comparisons"]:
        if entry["candidate"] == "reduced":
            entry["candidate"] = name
    for row in (*comparison["recipes"], *comparison["tuned_losses"]):
        key = "recipe" if "recipe" in row else "name"
        row[key] = name if row[key] == "mix-even" else row[key]
    svg = inline_svg(draw(comparison, width_inches=width), "chart", f"about {name[:10]}")
    texts = [text for element in ElementTree.fromstring(svg).iter("text") for text in element.itertext()]
    assert any("$x$ &" in text or text.startswith("<b>") for text in texts)
    assert "<b>" not in svg


@pytest.mark.parametrize("draw", DRAWERS)
def test_nulls_leave_a_figure_that_says_so(draw: Any) -> None:
    null, empty = make_null_comparison(), make_null_comparison()
    empty |= {"comparisons": [], "tuned_losses": []}
    for comparison in (null, empty):
        figure = draw(comparison)
        assert isinstance(figure, Figure)
        assert "<svg" in inline_svg(figure, "chart", "nothing")


def test_one_learning_rate_is_enough(comparison: dict[str, Any]) -> None:
    comparison["comparisons"] = [entry for entry in comparison["comparisons"] if entry["candidate"] == "reduced"]
    inline_svg(agreement_by_lr(comparison), "chart", "one point")


def test_an_inline_figure_is_deterministic_and_leaves_settings_alone(comparison: dict[str, Any]) -> None:
    before = dict(matplotlib.rcParams)
    first, second = (inline_svg(agreement_by_lr(comparison), "chart", "alt") for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_a_long_label_is_cut_in_the_middle() -> None:
    assert len(label("a-rather-long-ladder@0.001", 16)) == 16
    assert label("a-rather-long-ladder@0.001", 16).endswith("@0.001")


def with_steps(comparison: dict[str, Any]) -> dict[str, Any]:
    """The comparison whose candidates `reduced` and `standard` are one protocol at two steps."""
    for entry in comparison["comparisons"]:
        for name, step in (("reduced", 100), ("standard", 400)):
            if entry["candidate"] == name:
                entry |= {"candidate": f"budget@step{step}", "step": step, "readout": {"kind": "ema", "share": 0.05}}
    return comparison


def test_agreement_by_step_plots_a_protocol_at_its_steps(comparison: dict[str, Any]) -> None:
    assert not step_series(comparison["comparisons"])
    given = entries(with_steps(comparison), "loss")
    top, bottom = agreement_by_step(comparison).axes
    points = [given["budget@step100"], given["budget@step400"]]
    assert line(top, "budget") == ([100, 400], [entry["spearman"]["value"] for entry in points])
    assert line(bottom, "budget") == ([100, 400], [entry["mean_loss"] for entry in points])
    page = render_page(comparison, {})
    assert "Agreement against the steps trained" in page
    assert "after 400 steps" in page
    assert "ema of weights (share 0.05)" in page
