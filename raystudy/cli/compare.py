"""Compare a study's candidates with its truth, from the records on storage."""

import argparse
from collections.abc import Mapping
from typing import Any

from raystudy.cli.finished import exit_status, keep_comparison, open_results
from raystudy.cli.options import add_json, add_storage, add_study, print_table, put_json, tell_damage, wants_only_json
from raystudy.study.state import PRIMARY_METRIC


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, by_name=True)
    add_storage(parser)
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Print the comparison and keep it in the study's folder; non-zero while wanted runs are missing."""
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
    header = ("protocol", "LR", "recipes", "Spearman", "tau-b", "decisions", "regret@1", "loss", "floor", "flags")
    rows = [
        _row(entry)
        for entry in comparison["comparisons"]
        if entry["metric"] == comparison.get("primary_metric", PRIMARY_METRIC)
    ]
    print_table(header, rows)
    _print_truth(comparison)
    print(comparison["verdict"]["sentence"])


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    flags = [f"{name} {len(recipes)}" for name, recipes in entry["guards"].items() if recipes]
    return (
        entry["candidate"],
        "-" if entry["lr"] is None else f"{entry['lr']:g}",
        str(entry["num_recipes"]),
        _figure(entry["spearman"]),
        _figure(entry["kendall_tau_b"]),
        _figure(entry["decision_accuracy"]),
        _figure(entry["regret"]["1"]["best_of_k"]),
        _number(entry["mean_loss"]),
        _number(entry["mean_unigram_loss"]),
        ", ".join(flags) or "-",
    )


def _print_truth(comparison: Mapping[str, Any]) -> None:
    if comparison["tuned_losses"]:
        print()
        rows = [
            (
                row["recipe"],
                "-" if row["best_lr"] is None else f"{row['best_lr']:g}",
                _number(row["loss"]),
                _number(row["unigram_loss"]),
                row["edge"] or "-",
            )
            for row in comparison["tuned_losses"]
        ]
        print_table((f"recipe (truth {comparison['truth']!r})", "best LR", "loss", "floor", "edge"), rows)
        print()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    interval = figure["these_recipes"]
    shown = f" [{interval['low']:.2f}, {interval['high']:.2f}]" if interval else ""
    return f"{figure['value']:.2f}{shown}"
