"""Preregistration: what `raystudy lock` registers of a study, and whether its results are confirmatory.

Confirmatory means: the study still asks what was locked, and every record behind the comparison, those that other
studies share included, was started after the lock. A clock may jump, so the time of a record alone does not decide: the
lock lists the runs that had been started, and a record must be both off that list and dated no earlier than the lock.
Scores that are given are registered themselves, those of a table by its checksum; of these alone nothing is
confirmatory, since nobody can say when they were first seen.
"""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from raystudy.artifacts.results import Record
from raystudy.artifacts.score_table import table_checksum, table_path
from raystudy.artifacts.study_lock import Lock
from raystudy.specs.base import canonical_json, digest
from raystudy.specs.metrics import read_metric
from raystudy.specs.protocol import Protocol, TableProtocol
from raystudy.specs.study import StudySpec
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave

_ANY_PROTOCOL: TypeAdapter[Protocol] = TypeAdapter(Protocol)


def registered_content(study: StudySpec) -> dict[str, Any]:
    """What a lock covers: primary metric (and its task), truth, candidates, contrast, success; names included.

    Settings equal to their default are left out, as in an identity, so that a new one changes no lock.

    Raises:
        DataError: the file of a `table` protocol cannot be read.
    """
    protocols = {name: _registered(protocol) for name, protocol in study.protocols.items()}
    content = {
        "primary_metric": study.comparison.primary_metric,
        "truth": {study.truth: protocols.pop(study.truth)},
        "candidates": protocols,
        "contrast": study.comparison.contrast,
        "success": study.comparison.success,
    }
    metric = read_metric(study.comparison.primary_metric)
    if metric.is_task:
        content["task"] = json.loads(canonical_json(study.tasks[metric.chosen]))
    return dict(json.loads(json.dumps(content)))


def _registered(protocol: Protocol) -> Any:
    content = json.loads(canonical_json(protocol))
    if isinstance(protocol, TableProtocol):
        del content["file"]  # the scores count, wherever they lie
        content["sha256"] = table_checksum(table_path(protocol.file))
    return content


def _canonical(protocols: Any) -> Any:
    """Registered protocols, without the defaults that an earlier version wrote out."""
    return {name: _without_defaults(protocol) for name, protocol in protocols.items()}


def _without_defaults(protocol: Any) -> Any:
    try:
        return json.loads(canonical_json(_ANY_PROTOCOL.validate_json(json.dumps(protocol))))
    except ValueError:  # a table's, or of another version
        return protocol


def differences(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what differs, candidates by name, such as `candidates.reduced`."""
    changed: list[str] = []
    for part in sorted({*locked, *now}):
        before, after = locked.get(part), now.get(part)
        if part in ("truth", "candidates") and isinstance(before, dict) and isinstance(after, dict):
            before, after = _canonical(before), _canonical(after)
        if digest(before) == digest(after):
            continue
        if part == "candidates" and isinstance(before, dict) and isinstance(after, dict):
            names = sorted({*before, *after})
            changed += [f"{part}.{name}" for name in names if before.get(name) != after.get(name)]
        else:
            changed.append(part)
    return changed


def confirmatory(state: StudyState, lock: Lock | None, *, is_complete: bool) -> dict[str, Any]:
    """`confirmatory`: whether the comparison is, and `confirmatory_reason`: why, or why not."""
    reason = _reason_against(state, lock, is_complete)
    if reason is not None or lock is None:
        return {"confirmatory": False, "confirmatory_reason": reason}
    since = lock.locked_at.isoformat()
    return {"confirmatory": True, "confirmatory_reason": f"locked at {since}; every record was started after that"}


def _reason_against(state: StudyState, lock: Lock | None, is_complete: bool) -> str | None:
    if lock is None:
        return "the study was not locked"
    changed = differences(lock.registered, registered_content(state.study))
    if changed:
        return f"the study has changed since it was locked: {', '.join(changed)}"
    if not is_complete:
        return "some wanted runs have no score"
    used = {run_id: state.record(run) for run_id, run in make_wave(state).wanted.items()}
    early = [run_id for run_id, record in used.items() if record is not None and not _is_after(record, lock)]
    if not any(used.values()):
        return "no record stands behind it, and given scores cannot be shown to be later than the lock"
    if early:
        return f"{len(early)} of {len(used)} records were started before the lock, or cannot be shown to be later"
    return None


def _is_after(record: Record, lock: Lock) -> bool:
    if record.run_id in lock.started_before:
        return False
    try:
        started = datetime.datetime.fromisoformat(record.result["provenance"]["started_at"])
        return started >= lock.locked_at
    except (KeyError, TypeError, ValueError):  # no time, no text, a time without a zone
        return False
