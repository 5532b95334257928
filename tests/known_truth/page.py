"""The result file's page: criteria and tables, from figures. Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.known_truth.criteria import Criterion, cells, mean_over

Figures = Mapping[str, Any]


def page(date: str, size: Mapping[str, Any], draws: Sequence[Figures], found: Sequence[Criterion]) -> str:
    """The page of one run of the check."""
    judged = [one for one in found if one.judged]
    failed = [one for one in judged if not one.held]
    lines = [
        f"# Known truth: {date}",
        "",
        f"`python -m tests.slow.known_truth`: search_spaces/random-features.yaml run as shipped, over {len(draws)} "
        f"draws of the design (teacher's signs and shifts, features), {size['num_seeds']} seeds each. Spearman "
        "correlation with the best achievable loss. What is exact or predicted is worked out as docs/theory.md says.",
        "",
        f"{len(failed)} of {len(judged)} criteria failed." if failed else f"All {len(judged)} criteria held.",
        "",
        "| | criterion | value | bound | held |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        held = ("yes" if one.held else "**no**") if one.judged else "-"
        lines.append(f"| {one.part} | {one.statement} | {one.value} | {one.bound} | {held} |")
    return "\n".join([*lines, *_ladders(draws), *_candidates(draws), *_each_draw(draws), ""])


def _ladders(draws: Sequence[Figures]) -> list[str]:
    lines = [
        "",
        "## Agreement by learning rate",
        "",
        "Means over draws, [lowest, highest draw] of the measured. `error`: standard error of the measured mean.",
        "",
        "| budget | LR | measured, single run | predicted, single run | error | exact expected losses |",
        "|---|---|---|---|---|---|",
    ]
    for place, ((budget, lr), (measured, predicted, errors)) in enumerate(cells(draws).items()):
        rung = place % len(draws[0]["ladders"][budget])
        exact = mean_over(draws, lambda d, b=budget, r=rung: d["ladders"][b][r]["exact"])
        error = float(np.sqrt((errors**2).sum())) / len(errors)
        lines.append(
            f"| {budget} | {lr:g} | {measured.mean():.3f} [{measured.min():.2f}, {measured.max():.2f}] "
            f"| {predicted.mean():.3f} | {error:.3f} | {exact:.3f} |"
        )
    return lines


def _candidates(draws: Sequence[Figures]) -> list[str]:
    lines = [
        "",
        "## Every candidate of the comparison",
        "",
        "Spearman as the comparison gives it, at the candidate's own number of runs.",
        "",
        "| candidate | mean | 10% | 90% |",
        "|---|---|---|---|",
    ]
    for name in draws[0]["candidates"]:
        values = [draw["candidates"][name] for draw in draws]
        if any(value is None for value in values):
            lines.append(f"| {name} | - | - | - |")
            continue
        low, high = np.quantile(values, [0.1, 0.9])
        lines.append(f"| {name} | {np.mean(values):.3f} | {low:.2f} | {high:.2f} |")
    return lines


def _each_draw(draws: Sequence[Figures]) -> list[str]:
    lines = [
        "",
        "## Every draw",
        "",
        "rho: tuned order with that of the standard LR, long budget, measured. Flips: predicted / measured / both.",
        "",
        "| draw | standard LR | alignment | long: best, standard, tuned | rho | flips | precision, recall | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for draw in draws:
        long, flips = draw["orders"]["long"], draw["flips"]
        peak = max(row["measured"] for row in draw["ladders"]["long"])
        standard = draw["candidates"].get("long-standard")
        shares = ", ".join("-" if flips[key] is None else f"{flips[key]:.3f}" for key in ("precision", "recall"))
        lines.append(
            f"| {draw['draw']} | {draw['standard_lr']:g} | {draw['small_rate']['alignment']:.2f} "
            f"| {peak:.2f}, {'-' if standard is None else format(standard, '.2f')}, {long['tuned_measured']:.2f} "
            f"| {long['rho_tuned_standard_measured']:.2f} | {flips['predicted']} / {flips['measured']} / "
            f"{flips['both']} | {shares} | {draw['seconds']:.0f} |"
        )
    return lines
