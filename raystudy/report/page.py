"""A study's comparison -> one self-contained HTML page: no script, no network. Writes no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from raystudy.errors import DataError
from raystudy.report import tables
from raystudy.report.drawing import NARROW_INCHES, WIDE_INCHES
from raystudy.report.figures import agreement_by_lr, agreement_of_protocols, lr_curves, tuned_losses
from raystudy.report.gap_table import gap_table
from raystudy.report.inline_svg import inline_svg
from raystudy.report.remarks import excluded_remarks, note_remarks, provenance_rows
from raystudy.report.step_figures import agreement_by_step, step_series
from raystudy.report.wording import (
    counted,
    highest_by_metric,
    interval,
    lr,
    named,
    number,
    premise_answer,
    premise_sentences,
    unit_of,
    winner_sentence,
)

FORMAT = "raystudy-comparison/1"
_NOT_A_CANDIDATE = ("undecided", "blocked", "indistinct")


def render_page(comparison: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The whole page as HTML text; the same arguments give the same text.

    Any key of `provenance` may be missing. DataError for a comparison of another format.
    """
    if comparison.get("format") != FORMAT:
        raise DataError(
            f"A report needs a comparison of format {FORMAT!r}, but got {comparison.get('format')!r}. "
            "Make it anew with `raystudy compare`."
        )
    environment = Environment(
        loader=PackageLoader("raystudy", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(_contents(comparison, provenance))
    # A lone surrogate, which JSON can hold, cannot be written as UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")


def _contents(comparison: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    outcome = comparison["verdict"]["outcome"]
    return {
        "study": comparison["study"],
        "truth": comparison["truth"],
        "setting": _setting(comparison),
        "verdict": comparison["verdict"],
        "badge": outcome if outcome in _NOT_A_CANDIDATE else "decided",
        "contrast": _contrast_lines(comparison["contrast"]),
        "premise_answer": premise_answer(comparison["premise"]),
        "premise_sentences": premise_sentences(comparison["premise"]),
        "charts": {chart.name: chart for chart in _charts(comparison)},
        "protocols": tables.protocol_table(comparison),
        "gap": gap_table(comparison),
        "subsets": tables.subset_table(comparison),
        "further": tables.further_table(comparison),
        "tuned": tables.tuned_table(comparison),
        "curve_words": _curve_words(comparison["tuned_losses"]),
        "validation": tables.validation_table(comparison),
        "winner": winner_sentence(highest_by_metric(comparison["comparisons"])),
        "guards": tables.guard_table(comparison),
        "excluded": excluded_remarks(comparison),
        "notes": note_remarks(comparison),
        "missing": tables.missing_table(comparison),
        "num_missing": len(comparison["missing"]),
        "conventions": dict(comparison["conventions"]),
        "recipes": tables.recipe_table(comparison),
        "provenance": provenance_rows(provenance),
        "study_file": provenance.get("study_file") or "",
        "created": provenance.get("created"),
    }


def _setting(comparison: Mapping[str, Any]) -> str:
    num_controls = sum(bool(recipe["control"]) for recipe in comparison["recipes"])
    return (
        f"Truth: {named(comparison['truth'])}. {counted(len(comparison['recipes']), 'recipe')} and among them "
        f"{counted(num_controls, 'control')}. Intervals: 95%, {counted(comparison['resamples'], 'resample')}, "
        f"generator seed {comparison['generator_seed']}.{_standing(comparison)}"
    )


def _standing(comparison: Mapping[str, Any]) -> str:
    """Whether the study was locked before its runs, where the comparison says so."""
    reason = comparison.get("confirmatory_reason")
    return f" {'Confirmatory' if comparison['confirmatory'] else 'Exploratory'}: {reason}." if reason else ""


def _contrast_lines(contrast: Mapping[str, Any] | None) -> list[str]:
    if contrast is None or (
        contrast["a_value"] is None and contrast["b_value"] is None and contrast.get("num_recipes") == 2
    ):
        return []  # the gap of two recipes has a section of its own
    a, b, difference = named(contrast["a"]), named(contrast["b"]), contrast["difference"]
    bounds = interval(difference["these_recipes"]) or "no interval"
    figure = str(contrast["figure"]).replace("_", " ").capitalize()
    outcome = {"a": f"in favour of {a}", "b": f"in favour of {b}"}.get(contrast["outcome"], contrast["outcome"])
    lines = [
        f"{figure}: {a} {number(contrast['a_value'])}, {b} {number(contrast['b_value'])}.",
        f"Difference, {a} minus {b}: {number(difference['value'])} {bounds}, {outcome}.",
    ]
    return lines + [f"{note['field']}: {note['reason']}" for note in contrast["notes"]]


@dataclass(frozen=True)
class Chart:
    """A figure at two widths, of which the page shows the one that fits; markup whose text is escaped."""

    name: str
    wide: str
    narrow: str


def _charts(comparison: Mapping[str, Any]) -> list[Chart]:
    """The page's figures; those without data are left out."""
    entries = tables.primary_entries(comparison)
    charts = []
    if entries:
        charts.append(_chart("protocols", agreement_of_protocols, comparison, _protocols_alt(entries)))
    if any(entry["lr"] is not None for entry in entries):
        charts.append(_chart("by-lr", agreement_by_lr, comparison, _by_lr_alt(entries)))
    if step_series(entries):
        charts.append(_chart("by-step", agreement_by_step, comparison, _by_step_alt(entries)))
    if comparison["tuned_losses"]:
        alt = _tuned_alt(comparison["tuned_losses"], unit_of(comparison))
        charts.append(_chart("tuned", tuned_losses, comparison, alt))
        charts.append(_chart("curves", lr_curves, comparison, _curves_alt(comparison["tuned_losses"])))
    return charts


def _chart(name: str, draw: Callable[..., Figure], comparison: Mapping[str, Any], alt: str) -> Chart:
    wide = inline_svg(draw(comparison, width_inches=WIDE_INCHES), f"chart-{name}-wide", alt)
    narrow = inline_svg(draw(comparison, width_inches=NARROW_INCHES), f"chart-{name}-narrow", alt)
    return Chart(name, wide, narrow)


def _protocols_alt(entries: list[Mapping[str, Any]]) -> str:
    values = "; ".join(f"{entry['candidate']} {_spoken(entry['spearman'])}" for entry in entries)
    return f"Spearman with the truth per protocol: {values}."


def _by_lr_alt(entries: list[Mapping[str, Any]]) -> str:
    with_lr = sorted((entry for entry in entries if entry["lr"] is not None), key=lambda entry: float(entry["lr"]))
    values = "; ".join(f"LR {lr(entry['lr'])} {_spoken(entry['spearman'])}" for entry in with_lr)
    return f"Spearman with the truth, and mean loss below it, against the proxy's learning rate: {values}."


def _by_step_alt(entries: list[Mapping[str, Any]]) -> str:
    points = [entry for many in step_series(entries).values() for entry in many]
    values = "; ".join(f"{entry['candidate']} {_spoken(entry['spearman'])}" for entry in points)
    return f"Spearman with the truth, and mean loss below it, against the steps trained: {values}."


def _tuned_alt(rows: list[Mapping[str, Any]], unit: str) -> str:
    values = "; ".join(f"{row['recipe']} {number(row['loss'], 3)}" for row in rows)
    return f"Tuned loss per recipe in {unit}: {values}."


def _curves_alt(rows: list[Mapping[str, Any]]) -> str:
    values = "; ".join(f"{row['recipe']} best at LR {lr(row['best_lr'])}" for row in rows)
    return f"Loss against learning rate, one panel per recipe: {values}."


def _curve_words(rows: list[Mapping[str, Any]]) -> str:
    """What the curves show, below them."""
    mean, best = "Line", "best learning rate"
    if any("points" in row for row in rows):
        is_random = any(row["is_random"] for row in rows)
        mean = "Large dots" if is_random else "Line, at each learning rate the best over the other settings"
        best = "best point"
    return (
        f"{mean}: mean over seeds; small dots: seeds; diamond: {best}; cross: a run diverged. All panels have one "
        "scale, each shifted to its recipe’s best loss; lines may leave their panel at the top."
    )


def _spoken(figure: Mapping[str, Any]) -> str:
    return "no value" if figure["value"] is None else number(figure["value"])
