"""Compare a study's candidates with its truth, from the records on storage; or those of a table of scores."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from raystudy.cli.finished import exit_status, keep_comparison, open_results
from raystudy.cli.options import add_json, add_storage, add_study, print_table, put_json, tell_damage, wants_only_json
from raystudy.cli.score_table import add_table_arguments, check_options, compare_score_table
from raystudy.specs.point import Point
from raystudy.study.state import PRIMARY_METRIC


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True, required=False)
    add_storage(parser)
    add_json(parser)
    add_table_arguments(parser)


def call(options: argparse.Namespace) -> int:
    """Print the comparison and keep it in the study's folder; non-zero while wanted runs are missing.

    That of a table is kept only where `--json` says.
    """
    check_options(options)
    if options.table is not None:
        of_table = compare_score_table(options)
        if not wants_only_json(options):
            print_comparison(of_table)
        put_json(options, of_table)
        return 0
    results = open_results(options)
    comparison = results.comparison_json
    tell_damage(results.storage)
    kept = keep_comparison(results)
    if not wants_only_json(options):
        print_comparison(comparison)
        print(f"comparison: {results.folder.path / 'comparison.json'}" + ("" if kept else " (left as it was)"))
    put_json(options, comparison)
    return exit_status(results)


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """The agreement of each protocol and the verdict, as text."""
    if comparison["tuned_losses"] or any(entry["lr"] is not None for entry in comparison["comparisons"]):
        primary = comparison.get("primary_metric", PRIMARY_METRIC)
        entries = [entry for entry in comparison["comparisons"] if entry["metric"] == primary]
        header = ("protocol", "LR", "recipes", *_FIGURES, "loss", "floor", "flags")
        print_table(header, [_row(entry) for entry in entries])
    else:
        entries = comparison["comparisons"]
        rows = [(e["candidate"], e["metric"], e["direction"], str(e["num_recipes"]), *_figures(e)) for e in entries]
        print_table(("protocol", "metric", "direction", "recipes", *_FIGURES), rows)
    _print_likes(entries)
    _print_gaps(comparison, entries)
    _print_excluded(entries)
    _print_truth(comparison)
    print(comparison["verdict"]["sentence"])


_FIGURES = ("Spearman", "tau-b", "decisions", "regret@1")


def _figures(entry: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("spearman", "kendall_tau_b", "decision_accuracy")
    return (*(_figure(entry[name]) for name in names), _figure(entry["regret"]["1"]["best_of_k"], digits=3))


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    flags = [f"{name} {len(recipes)}" for name, recipes in entry["guards"].items() if recipes]
    return (
        entry["candidate"],
        _point(entry["lr"], entry.get("settings")),
        str(entry["num_recipes"]),
        *_figures(entry),
        _number(entry["mean_loss"]),
        _number(entry["mean_unigram_loss"]),
        ", ".join(flags) or "-",
    )


def _print_likes(entries: Sequence[Mapping[str, Any]]) -> None:
    """The intervals for recipes like these, where there are any."""
    names = {"Spearman": "spearman", "tau-b": "kendall_tau_b", "decisions": "decision_accuracy"}
    having = [entry for entry in entries if any(entry[name]["recipes_like_these"] for name in names.values())]
    if having:
        print()
        rows = [
            (
                entry["candidate"],
                entry["metric"],
                *(_bounds(entry[name]["recipes_like_these"]) for name in names.values()),
            )
            for entry in having
        ]
        print_table(("recipes like these, 95%", "metric", *names), rows)


def _print_gaps(comparison: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """The gap of two recipes, where there are only two."""
    rows = []
    for entry in entries:
        gap = entry["gap"]
        if gap is not None:
            rows.append(
                (entry["candidate"], entry["metric"], gap["a"], gap["b"], *_gap(gap["truth"]), *_gap(gap["candidate"]))
            )
    if rows:
        print()
        unit = comparison["unit"]
        header = ("protocol", "metric", "A", "B", f"truth, A - B ({unit})", "P(A better)")
        print_table((*header, "protocol, A - B", "P(A better)"), rows)


def _gap(side: Mapping[str, Any]) -> tuple[str, str]:
    if side["value"] is None:
        return "-", "-"
    interval, probability = side["these_recipes"], side["probability_a_better"]
    shown = f" [{interval['low']:.3g}, {interval['high']:.3g}]" if interval else ""
    return f"{side['value']:.3g}{shown}", "undecided" if probability is None else f"{probability:.2f}"


def _print_excluded(entries: Sequence[Mapping[str, Any]]) -> None:
    """Each recipe that is left out, once per candidate and reason."""
    lines = [
        f"left out of {entry['candidate']!r}: {item['recipe']!r} ({item['reason']})"
        for entry in entries
        for item in entry["excluded"]
    ]
    for line in dict.fromkeys(lines):
        print(line)


def _print_truth(comparison: Mapping[str, Any]) -> None:
    if comparison["tuned_losses"]:
        print()
        rows = [
            (
                row["recipe"],
                _point(row["best_lr"], row.get("best_settings")),
                _number(row["loss"]),
                _number(row["unigram_loss"]),
                row["edge"] or "-",
            )
            for row in comparison["tuned_losses"]
        ]
        print_table((f"recipe (truth {comparison['truth']!r})", "best LR", "loss", "floor", "edge"), rows)
        print()


def _point(lr: float | None, settings: Mapping[str, float] | None) -> str:
    return "-" if lr is None else Point(lr, tuple((settings or {}).items())).name


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _figure(figure: Mapping[str, Any], digits: int = 2) -> str:
    if figure["value"] is None:
        return "-"
    interval = figure["these_recipes"]
    return f"{figure['value']:.{digits}f}" + (f" {_bounds(interval, digits)}" if interval else "")


def _bounds(interval: Mapping[str, float] | None, digits: int = 2) -> str:
    return "-" if interval is None else f"[{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"
