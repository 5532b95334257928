"""Preregistration: what `raystudy lock` registers of a study, and whether its results are confirmatory.

Confirmatory means: the study still asks what was locked, and every record behind the comparison, those that other
studies share included, was started after the lock. A clock may jump, so the time of a record alone does not decide: the
lock lists the runs that had been started, and a record must be both off that list and dated no earlier than the lock.
"""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from raystudy.artifacts.records import Record
from raystudy.artifacts.study_lock import Lock
from raystudy.specs.base import digest
from raystudy.specs.metrics import read_metric
from raystudy.specs.study import StudySpec
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave


def registered_content(study: StudySpec) -> dict[str, Any]:
    """What a lock covers: primary metric (and its task), truth, candidates, contrast, success; names included."""
    protocols = {name: protocol.model_dump(mode="json") for name, protocol in study.protocols.items()}
    content = {
        "primary_metric": study.comparison.primary_metric,
        "truth": {study.truth: protocols.pop(study.truth)},
        "candidates": protocols,
        "contrast": study.comparison.contrast,
        "success": study.comparison.success,
    }
    metric = read_metric(study.comparison.primary_metric)
    if metric.is_task:
        content["task"] = study.tasks[metric.chosen].model_dump(mode="json")
    return dict(json.loads(json.dumps(content)))


def differences(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what differs, candidates by name, such as `candidates.reduced`."""
    changed: list[str] = []
    for part in sorted({*locked, *now}):
        before, after = locked.get(part), now.get(part)
        if digest(before) == digest(after):
            continue
        if part == "candidates" and isinstance(before, dict) and isinstance(after, dict):
            names = sorted({*before, *after})
            changed += [f"{part}.{name}" for name in names if digest(before.get(name)) != digest(after.get(name))]
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
