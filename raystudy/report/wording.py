"""Numbers -> the words and digits a page prints. Knows neither tables nor HTML.

What is null prints as a dash; no sentence here claims more than the numbers it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DASH = "–"
_REASONABLE_SECONDS = 100


def unit_of(comparison: Mapping[str, Any]) -> str:
    """The unit of the metrics; comparisons made before there was a unit are of losses in nats per token."""
    return str(comparison.get("unit", "nats per token"))


def primary_metric(comparison: Mapping[str, Any]) -> str:
    """The metric of the headline."""
    return str(comparison.get("primary_metric", "loss"))


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits, a true minus sign, no negative zero."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def interval(bounds: Mapping[str, float] | None, digits: int = 2) -> str | None:
    """[low, high]."""
    return None if bounds is None else f"[{number(bounds['low'], digits)}, {number(bounds['high'], digits)}]"


def lr(value: float | None) -> str:
    """A learning rate as people write it: 0.003, 3e-05."""
    return DASH if value is None else f"{value:.3g}"


def settings(changes: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a point changes beside the learning rate, one text a setting: `weight_decay 0.1`, `tokens 1,000,000`."""
    shown = {axis: f"{value:,d}" if isinstance(value, int) else f"{value:g}" for axis, value in (changes or {}).items()}
    return tuple(f"{axis} {text}" for axis, text in shown.items())


def flops(value: float | None) -> str:
    """Two digits and an exponent: 1.2e13."""
    return DASH if value is None else f"{value:.1e}".replace("e+", "e").replace("e0", "e")


def seconds(value: float | None) -> str:
    """One decimal where it matters."""
    if value is None:
        return DASH
    return f"{value:.1f}" if value < _REASONABLE_SECONDS else f"{value:,.0f}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """1 recipe, 2 recipes."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def named(name: str) -> str:
    """A name inside a sentence; one that may run from right to left is kept apart from the words beside it."""
    return name if name.isascii() else f"\u2068{name}\u2069"


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def scored_weights(entry: Mapping[str, Any]) -> list[str]:
    """Which weights a candidate scores, where they are not the last of its runs; a line each."""
    step, readout, branch = (entry.get(key) for key in ("step", "readout", "branch"))
    lines = [] if step is None else [f"after {counted(step, 'step')}"]
    if branch is not None:
        lines.append(f"decay over {counted(branch['steps'], 'step')} from step {branch['at']}")
    if readout is not None:
        settings = ", ".join(f"{k} {v:g}" for k, v in readout.items() if k != "kind" and v is not None)
        lines.append(f"{readout['kind']} of weights ({settings})")
    return lines


def reason_for(notes: Sequence[Mapping[str, str]], field: str, part: str = "") -> str:
    """Why `field` (or its `part`, an interval) is null, from an entry's notes."""
    names = [f"{field}.{part}", part] if part else [field, field.rpartition(".")[0], field.partition(".")[0]]
    for name in names:
        for note in notes:
            if name and note["field"] == name:
                return note["reason"]
    return "the comparison gives no reason"


_PREMISE_ANSWERS = {
    "reorders": "Yes: tuning reorders recipes of this study, beyond what seed noise explains.",
    "does-not-reorder": "No: tuning does not reorder the recipes of this study beyond what seed noise explains.",
    "undecided": "Undecided: these runs do not show whether tuning reorders the recipes.",
}


def premise_answer(premise: Mapping[str, Any] | None) -> str:
    """Does tuning reorder the recipes here? The outcome in words."""
    if premise is None:
        return "Not assessed: this comparison has no premise (only a truth tuned in the study itself has one)."
    return _PREMISE_ANSWERS[premise["outcome"]]


def premise_sentences(premise: Mapping[str, Any] | None) -> list[str]:
    """The numbers behind the answer, each in a sentence that follows from it; nothing for what is null."""
    if premise is None:
        return []
    sentences = []
    best, value = premise["best_fixed_lr"], premise["spearman"]["value"]
    others = settings(premise.get("best_fixed_settings"))
    noun, point = ("point", ", ".join((f"LR {lr(best)}", *others))) if others else ("learning rate", lr(best))
    if best is not None:
        agrees = "has no defined rank correlation with" if value is None else "has a Spearman correlation of"
        figure = "" if value is None else f" {number(value)} {_bounds(premise['spearman'])} with"
        sentences.append(
            f"With every recipe at the {noun} that is best on average ({point}), the order of the recipes "
            f"{agrees}{figure} their order when each is tuned."
        )
    reversed_pairs, separably = premise["num_pairs_reversed"], premise["num_pairs_reversed_separably"]
    if reversed_pairs is not None:
        sentence = f"{reversed_pairs} of {counted(premise['num_pairs'], 'pair')} of recipes"
        sentence += " changes places" if reversed_pairs == 1 else " change places"
        sentences.append(f"{sentence}{'' if separably is None else f', {separably} of them beyond seed noise'}.")
    elsewhere = premise["num_recipes_with_another_best_lr"]
    if elsewhere is not None and best is not None:
        verb = "is" if elsewhere == 1 else "are"
        sentences.append(f"{counted(elsewhere, 'recipe')} {verb} best at another {noun} than {point}.")
    test = premise["interaction"]
    if test is not None:
        sentences.append(
            f"Test of an interaction of {noun} and recipe: "
            f"F({test['numerator_dof']:g}, {test['denominator_dof']:g}) = {number(test['f'])}, "
            f"p {_p_value(test['p_value'])}."
        )
    return sentences


def _bounds(figure: Mapping[str, Any]) -> str:
    return interval(figure["these_recipes"]) or "(no interval)"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def highest_by_metric(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Candidates with the highest Spearman on each metric (several where tied), by metric; none where all are null."""
    highest: dict[str, list[str]] = {}
    for metric in dict.fromkeys(entry["metric"] for entry in comparisons):
        known = [
            (entry["candidate"], entry["spearman"]["value"])
            for entry in comparisons
            if entry["metric"] == metric and entry["spearman"]["value"] is not None
        ]
        top = max((value for _, value in known), default=None)
        highest[metric] = [name for name, value in known if value == top]
    return highest


def winner_sentence(highest: Mapping[str, Sequence[str]]) -> str:
    """Does the candidate with the highest Spearman depend on the validation set?"""
    of_study = {metric for metric in highest if metric.startswith("loss/")}
    sets = {metric: names for metric, names in highest.items() if names and (metric in of_study or not of_study)}
    if len(sets) < 2:
        return "Fewer than two validation sets have a defined Spearman correlation, so nothing can be said."
    if any(len(names) > 1 for names in sets.values()):
        always = set.intersection(*(set(names) for names in sets.values()))
        if always:
            shared = listed([named(name) for name in sorted(always)])
            return f"{shared}: highest, alone or tied, on each of the {len(sets)} validation sets."
    firsts = list(dict.fromkeys(name for names in sets.values() for name in names))
    if len(firsts) == 1:
        return f"{named(firsts[0])} has the highest Spearman correlation on each of the {len(sets)} validation sets."
    parts = []
    for names in dict.fromkeys(tuple(names) for names in sets.values()):
        on = [named(metric.removeprefix("loss/")) for metric, found in sets.items() if tuple(found) == names]
        parts.append(f"{listed([named(name) for name in names])} on {listed(on)}")
    return f"It does here: the highest Spearman correlation is that of {'; '.join(parts)}."
