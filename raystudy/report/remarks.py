"""A comparison's exclusions and notes, gathered so that each is printed once, and a report's provenance as rows.

Knows nothing about HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raystudy.report.wording import named, seconds

_MOST_PLACES = 6


@dataclass(frozen=True)
class Remark:
    """Something left out or not computed, why, and in which entries."""

    subject: str
    reason: str
    places: str


def excluded_remarks(comparison: Mapping[str, Any]) -> list[Remark]:
    """Recipes that an entry leaves out, each reason once."""
    return _gathered(comparison, "excluded", "recipe")


def note_remarks(comparison: Mapping[str, Any]) -> list[Remark]:
    """Every note of the entries, and of the premise."""
    remarks = _gathered(comparison, "notes", "field")
    premise = comparison["premise"]
    notes = [] if premise is None else premise["notes"]
    return remarks + [Remark(_readable(note["field"]), note["reason"], "the premise") for note in notes]


def _gathered(comparison: Mapping[str, Any], key: str, subject: str) -> list[Remark]:
    entries = comparison["comparisons"]
    metrics: dict[str, set[str]] = {}
    places: dict[tuple[str, str], dict[str, set[str]]] = {}
    for entry in entries:
        for suffix, figures in {"": entry, **{f" ({name})": part for name, part in entry["subsets"].items()}}.items():
            where = named(entry["candidate"]) + suffix
            metrics.setdefault(where, set()).add(entry["metric"])
            for item in figures[key]:
                found = places.setdefault((item[subject], item["reason"]), {})
                found.setdefault(where, set()).add(entry["metric"])
    return [
        Remark(_readable(name) if subject == "field" else name, reason, _where(found, metrics))
        for (name, reason), found in places.items()
    ]


def _where(found: Mapping[str, set[str]], metrics: Mapping[str, set[str]]) -> str:
    if found == metrics:
        return "everywhere"
    parts = [
        f"{where}, every metric" if on == metrics[where] else f"{where} on {', '.join(sorted(on))}"
        for where, on in found.items()
    ]
    more = f"; and {len(parts) - _MOST_PLACES} more" if len(parts) > _MOST_PLACES else ""
    return "; ".join(parts[:_MOST_PLACES]) + more


def _readable(field: str) -> str:
    return field.replace("_", " ")


def provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text for what `provenance` holds; the study file is not among them."""
    rows = {
        "raystudy": _text(provenance.get("raystudy")),
        "created": _text(provenance.get("created")),
        "storage": _text(provenance.get("storage")),
        "runs": _joined(f"{count} {status}" for status, count in _items(provenance, "num_runs")),
        "devices": _joined(str(device) for device in provenance.get("devices") or ()),
        "device-seconds": "" if provenance.get("device_seconds") is None else seconds(provenance["device_seconds"]),
        "packages": _joined(f"{name} {version}" for name, version in sorted(_items(provenance, "packages"))),
    }
    return [(label, text) for label, text in rows.items() if text]


def _items(provenance: Mapping[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    return list((provenance.get(key) or {}).items())


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts)
