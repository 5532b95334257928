"""The verdict in one sentence, from the numbers of a comparison and nothing else.

A verdict needs all wanted runs; it is "undecided" whenever an interval says so, and "indistinct" when
tuning does not reorder the recipes at all, since then any fixed learning rate is as good as the truth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from raystudy.study.state import PRIMARY_METRIC
from raystudy.study.two_recipes import claim_of_two


def verdict(comparison: Mapping[str, Any]) -> dict[str, str]:
    """Outcome (a candidate's name, undecided, indistinct or blocked) and the sentence."""
    if comparison["missing"]:
        count = sum(row["num_runs"] for row in comparison["missing"])
        first = comparison["missing"][0]
        where = f"{first['protocol']}, {first['reason']}"
        sentence = f"No verdict: no score from {_counted(count, 'wanted run')} (first: {where})."
        return {"outcome": "blocked", "sentence": sentence}
    if comparison.get("contradictions"):
        first, *others = comparison["contradictions"]
        more = f"; {_counted(len(others), 'more contradiction')} in the comparison's JSON" if others else ""
        return {"outcome": "blocked", "sentence": f"No verdict: the numbers contradict each other: {first}{more}."}
    if comparison.get("leaked"):
        return {"outcome": "blocked", "sentence": _leak_sentence(comparison["leaked"])}
    primary = comparison.get("primary_metric", PRIMARY_METRIC)
    entries = [entry for entry in comparison["comparisons"] if entry["metric"] == primary]
    if not entries:
        return {"outcome": "blocked", "sentence": "No verdict: no candidate has scores."}
    outcome, claim, concerned = _claim(comparison, entries)
    premise = comparison["premise"]
    standing = "Confirmatory: " if comparison.get("confirmatory") else ""
    if premise is not None and premise["outcome"] == "does-not-reorder":
        lead = "This study cannot distinguish a tuned truth from a fixed one: tuning does not reorder its recipes"
        return {"outcome": "indistinct", "sentence": f"{standing}{lead}. {claim}{_flags(comparison, concerned)}."}
    doubt = ""
    if premise is not None and premise["outcome"] == "undecided":
        doubt = "; whether tuning reorders the recipes here is itself undecided"
    return {"outcome": outcome, "sentence": f"{standing}{claim}{doubt}{_flags(comparison, concerned)}."}


def _leak_sentence(leaks: Sequence[Mapping[str, Any]]) -> str:
    recipes = _counted(len({row["recipe"] for row in leaks}), "recipe")
    first = leaks[0]
    which = f"{first['recipe']!r} holds {first['share']:.0%} of the documents of validation set {first['validation']!r}"
    return f"No verdict: validation text was found in {recipes} (first: {which}). Take it out of either."


def _claim(comparison: Mapping[str, Any], entries: list[Any]) -> tuple[str, str, list[Any]]:
    """Outcome, the claim, and the entries it is about."""
    chosen = comparison["contrast"]
    by_name = {entry["candidate"]: entry for entry in entries}
    about = entries if chosen is None else [by_name[chosen[side]] for side in ("a", "b")]
    of_two = claim_of_two(comparison, about)
    if of_two is not None:
        return of_two
    if chosen is None:
        return _best(entries, comparison["truth"])
    first, second = by_name[chosen["a"]], by_name[chosen["b"]]
    difference = chosen["difference"]
    if chosen["outcome"] == "b":
        first, second, difference = second, first, _negated(difference)
    values = {chosen["a"]: chosen["a_value"], chosen["b"]: chosen["b_value"]}
    num_recipes = chosen["num_recipes"]
    better, worse = (
        _figure(_over_those_of_both(entry, values[entry["candidate"]], num_recipes)) for entry in (first, second)
    )
    numbers = f"Spearman {better} against {worse}, difference {_figure(difference)} over {num_recipes} recipes"
    order = f"the order of {comparison['truth']!r} better"
    if chosen["outcome"] == "undecided":
        claim = f"Undecided whether {_called(first)} or {_called(second)} recovers {order}: {numbers}"
        return "undecided", claim, [first, second]
    claim = f"{_called(first)} recovers {order} than {_called(second)}: {numbers}"
    success = comparison.get("success")
    if success is not None and difference["these_recipes"]["low"] <= success:
        claim += f"; undecided whether by more than {success:g}, the least that counts"
        return "undecided", claim, [first, second]
    return first["candidate"], claim, [first, second]


def _over_those_of_both(entry: Mapping[str, Any], value: float | None, num_recipes: int) -> Mapping[str, Any]:
    """The entry's Spearman; where the other candidate lacks some of its recipes, the value over those of both."""
    figure: Mapping[str, Any] = entry["spearman"]
    return figure if entry["num_recipes"] == num_recipes else {"value": value, "these_recipes": None}


def _negated(figure: Mapping[str, Any]) -> dict[str, Any]:
    """The figure of b minus a from that of a minus b."""
    interval = figure["these_recipes"]
    turned = None if interval is None else {"low": -interval["high"], "high": -interval["low"]}
    return {"value": -figure["value"], "these_recipes": turned}


def _best(entries: list[Any], truth: str) -> tuple[str, str, list[Any]]:
    """Without a contrast: the highest Spearman, decided only if its interval lies above all others."""
    known = [entry for entry in entries if entry["spearman"]["value"] is not None]
    if not known:
        return "undecided", f"Undecided: no candidate's rank correlation with {truth!r} is defined", []
    best = max(known, key=lambda entry: entry["spearman"]["value"])
    others = [entry["spearman"] for entry in known if entry is not best]
    interval = best["spearman"]["these_recipes"]
    is_apart = interval is not None and all(
        other["these_recipes"] is not None and other["these_recipes"]["high"] < interval["low"] for other in others
    )
    claim = f"{_called(best)} agrees most with {truth!r}: Spearman {_figure(best['spearman'])} over "
    claim += f"{best['num_recipes']} recipes"
    if is_apart:
        return best["candidate"], claim, [best]
    has_all = all(figure["these_recipes"] is not None for figure in (best["spearman"], *others))
    why = "since intervals overlap" if has_all else "since there is no interval for these recipes"
    return "undecided", f"Undecided, {why}: {claim}", [best]


def _called(entry: Mapping[str, Any]) -> str:
    return repr(entry["candidate"]) + (f" (LR {entry['lr']:g})" if entry["lr"] is not None else "")


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    interval = figure["these_recipes"]
    if interval is None:
        return f"{figure['value']:.2f} [no interval]"
    return f"{figure['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def _flags(comparison: Mapping[str, Any], concerned: list[Any]) -> str:
    """Guards that stand beside the claim; empty when there are none."""
    words = {
        "barely_trained": "has not beaten the unigram floor",
        "edge": "is on its grid's edge",
        "diverged": "diverged",
        "repeated": "repeats data",
        "leaked": "holds validation text",
        "unpaired": "starts or is fed unlike the other recipes at the same seed",
    }
    parts = [
        f"{entry['candidate']!r} {text} on {_counted(len(entry['guards'][guard]), 'recipe')}"
        for entry in concerned
        for guard, text in words.items()
        if entry["guards"].get(guard)
    ]
    parts += [
        f"the truth {text} on {_counted(len(comparison['truth_guards'][guard]), 'recipe')}"
        for guard, text in words.items()
        if comparison["truth_guards"].get(guard)
    ]
    if comparison.get("looked_for_leaks") is False:
        parts.append("validation text was not looked for in the recipes")
    return f"; beware: {'; '.join(parts)}" if parts else ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
