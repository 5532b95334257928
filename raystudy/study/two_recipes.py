"""The verdict of a comparison of two recipes, from their gaps: no correlation is defined there.

Reads a comparison's entries; computes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_TOLD = 4


def claim_of_two(comparison: Mapping[str, Any], entries: Sequence[Any]) -> tuple[str, str, list[Any]] | None:
    """Outcome, claim, and the entries it is about; None unless every entry is over the same two recipes.

    The outcome is the one candidate that, like the truth, finds the same recipe better beyond noise; "undecided"
    where the truth is, and where none or several do.
    """
    gaps = [entry["gap"] for entry in entries if entry.get("gap") is not None]
    if len(gaps) < len(entries) or len({(gap["a"], gap["b"]) for gap in gaps}) != 1:
        return None
    first, unit = gaps[0], comparison.get("unit", "nats per token")
    told = [_told(repr(comparison["truth"]), first, first["truth"], unit)]
    told += [_told(repr(entry["candidate"]), first, entry["gap"]["candidate"], unit) for entry in entries[:_MOST_TOLD]]
    if len(entries) > _MOST_TOLD:
        told.append(f"{len(entries) - _MOST_TOLD} more candidates are in the table")
    truth = first["truth"]["outcome"]
    alike = [entry for entry in entries if entry["gap"]["candidate"]["outcome"] == truth != "undecided"]
    is_decided = len(alike) == 1
    lead = "" if is_decided else "Undecided: "
    if len(alike) > 1:
        lead = f"Undecided which candidate does better, since {len(alike)} choose as the truth does: "
    return (
        alike[0]["candidate"] if is_decided else "undecided",
        f"{lead}{'of' if lead else 'Of'} two recipes, {'; '.join(told)}",
        [*entries],
    )


def _told(name: str, pair: Mapping[str, Any], side: Mapping[str, Any], unit: str) -> str:
    value, bounds, probability = side["value"], side["these_recipes"], side["probability_a_better"]
    if value is None:
        return f"{name} has no gap"
    if value == 0.0:
        return f"{name} ties them"
    is_a = value < 0.0
    better = pair["a"] if is_a else pair["b"]
    text = f"{name} puts {better!r} first by {abs(value):.3g} {unit}"
    if bounds is None:
        return f"{text} [no interval], undecided"
    low, high = (-bounds["high"], -bounds["low"]) if is_a else (bounds["low"], bounds["high"])
    text += f" [{low:.3g}, {high:.3g}], P(better) {probability if is_a else 1.0 - probability:.2f}"
    return text if side["outcome"] != "undecided" else f"{text}, undecided"
