"""Confirmatory is said only if a study is locked, unchanged, complete, and every record was started after the lock."""

import datetime
import json
from dataclasses import replace

import pytest

from raystudy.artifacts.study_lock import lock_path, read_lock, write_lock
from raystudy.errors import StorageError
from raystudy.specs.study import StudySpec
from raystudy.study.comparing import compare_study
from raystudy.study.preregistration import differences, registered_content
from raystudy.study.state import StudyState
from raystudy.study.verdict import verdict
from raystudy.study.waves import make_wave
from tests.planted import RECIPES, curved_loss, inputs_of, planted_state, record_of, study_spec

TUNED = {name: 2 + 0.1 * place for place, name in enumerate(RECIPES)}
BEST = {name: (1e-3, 1e-2)[place % 2] for place, name in enumerate(RECIPES)}


def started(state: StudyState, shift: datetime.timedelta, only: str | None = None) -> StudyState:
    """The records with a time: `shift` from now, or only that of the run `only`, the others a minute from now."""
    records, now = {}, datetime.datetime.now(datetime.UTC)
    for run_id, record in state.records.items():
        mine = shift if only in (None, run_id) else datetime.timedelta(minutes=1)
        at = (now + mine).isoformat(timespec="seconds")
        records[run_id] = replace(record, result={**record.result, "provenance": {"started_at": at}})
    return StudyState(state.study, state.inputs, records)


LATER = datetime.timedelta(minutes=1)
SHARP = {"kind": "sharpness", "model": "proxy"}
EARLIER = datetime.timedelta(minutes=-1)


@pytest.fixture(scope="module")
def state() -> StudyState:
    return planted_state(curved_loss(TUNED, BEST))


def locked(folder, state, started_before=()):
    assert write_lock(folder, registered_content(state.study), started_before)
    return read_lock(folder)


def verdict_of(state, lock):
    comparison = compare_study(state, lock)
    is_said = "confirmatory" in comparison["verdict"]["sentence"].lower()
    assert is_said == comparison["confirmatory"]
    return comparison["confirmatory"], comparison["confirmatory_reason"]


def test_a_locked_unchanged_complete_study_with_later_records_is_confirmatory(state, tmp_path):
    lock = locked(tmp_path, state, ["another-run"])
    assert verdict_of(started(state, LATER), lock)[0] is True
    at_once = started(state, lock.locked_at - datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1))
    assert verdict_of(at_once, lock)[0] is True


def test_without_a_lock_nothing_is_confirmatory(state):
    assert verdict_of(started(state, LATER), None) == (False, "the study was not locked")


def test_one_record_that_was_started_before_the_lock_is_enough(state, tmp_path):
    lock, one = locked(tmp_path, state), next(iter(state.records))
    is_confirmatory, reason = verdict_of(started(state, EARLIER, only=one), lock)
    assert (is_confirmatory, reason.startswith("1 of ")) == (False, True)


def test_a_run_that_had_been_started_counts_as_early_whatever_its_clock_said(state, tmp_path):
    lock = locked(tmp_path, state, [next(iter(state.records))])
    assert verdict_of(started(state, datetime.timedelta(hours=2)), lock)[0] is False


@pytest.mark.parametrize("at", [None, "", "soon", 5, "2999-01-01T00:00:00"])
def test_a_record_without_a_time_that_can_be_compared_counts_as_early(state, tmp_path, at):
    later, one = started(state, LATER), next(iter(state.records))
    record = replace(later.records[one], result={**later.records[one].result, "provenance": {"started_at": at}})
    assert verdict_of(replace(later, records={**later.records, one: record}), locked(tmp_path, state))[0] is False


def test_missing_runs_are_not_confirmatory(state, tmp_path):
    lock, later = locked(tmp_path, state), started(state, LATER)
    some = dict(list(later.records.items())[1:])
    assert verdict_of(replace(later, records=some), lock) == (False, "some wanted runs have no score")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"comparison": {"contrast": ["standard", "reduced"], "resamples": 300}}, "contrast"),
        ({"comparison": {"contrast": ["reduced", "standard"], "resamples": 300, "success": 0.1}}, "success"),
        (
            {"comparison": {"contrast": ["reduced", "standard"], "resamples": 300, "primary_metric": "loss/p"}},
            "primary_metric",
        ),
        ({"truth": "standard"}, "candidates.standard"),
    ],
)
def test_a_study_that_asks_something_else_than_was_locked_is_not_confirmatory(state, tmp_path, changes, named):
    lock = locked(tmp_path, state)
    changed = started(planted_state(curved_loss(TUNED, BEST), study_spec(**changes)), LATER)
    is_confirmatory, reason = verdict_of(changed, lock)
    assert (is_confirmatory, named in reason) == (False, True), reason


def test_a_changed_candidate_or_truth_is_named(state):
    before = registered_content(state.study)
    after = json.loads(json.dumps(before))
    after["candidates"]["reduced"]["lr"]["ratio"] = 0.2
    after["candidates"]["more"] = after["candidates"].pop("ladder")
    assert differences(before, after) == ["candidates.ladder", "candidates.more", "candidates.reduced"]
    assert differences(before, registered_content(state.study)) == []
    assert "truth" in differences(before, {**before, "truth": {}})


def test_a_lock_is_written_once_and_a_changed_one_is_no_lock(state, tmp_path):
    locked(tmp_path, state)
    before = lock_path(tmp_path).read_bytes()
    assert not write_lock(tmp_path, {"other": 1}, [])
    assert lock_path(tmp_path).read_bytes() == before
    value = json.loads(before)
    value["registered"]["success"] = 0.3
    lock_path(tmp_path).write_text(json.dumps(value))
    with pytest.raises(StorageError, match="its digest is not that of what it holds"):
        read_lock(tmp_path)


def not_extended(study: StudySpec) -> StudySpec:
    """The study, no grid of which goes on beyond its edges."""
    text = study.model_dump_json(exclude_unset=True)
    assert '"grid":' in text
    return StudySpec.model_validate_json(text.replace('"grid":', '"extend":0,"grid":'))


def test_the_verdict_the_contrast_and_the_chosen_learning_rate_follow_the_primary_metric():
    """On set `q` every loss is turned round: the learning rate that is worst on `p` is best there."""
    settings = {"contrast": ["reduced", "standard"], "resamples": 300}
    base, chosen, compared = curved_loss(TUNED, BEST), {}, {}
    for metric in ("loss/p", "loss/q"):
        study = not_extended(study_spec(comparison={**settings, "primary_metric": metric}))
        inputs, records = inputs_of(study), {}
        while todo := make_wave(state := StudyState(study, inputs, records)).todo:
            for run in todo:
                record = record_of(run, base(run), inputs)
                turned = {**record.metrics, ("loss", "validation-q"): 10 - base(run)}
                records = {**records, run.run_id: replace(record, metrics=turned)}
        comparison = compare_study(state)
        assert comparison["primary_metric"] == metric
        difference = abs(comparison["contrast"]["difference"]["value"])
        assert f"difference {difference:.2f}" in comparison["verdict"]["sentence"]
        chosen[metric] = {row["recipe"]: row["best_lr"] for row in comparison["tuned_losses"]}
        compared[metric] = {
            entry["candidate"]: entry["lr"] for entry in comparison["comparisons"] if entry["metric"] == metric
        }
    assert chosen["loss/p"] == BEST
    assert set(chosen["loss/q"].values()) <= {1e-1, 1e-3}
    assert chosen["loss/q"]["a"] == 1e-1
    assert compared["loss/p"]["standard"] == BEST["a"]
    assert compared["loss/q"]["standard"] == 1e-1, "rules that rest on a sweep follow too"


def test_a_contrast_that_may_lie_under_the_least_difference_that_counts_is_undecided(state):
    comparison = compare_study(state)
    difference = {"value": 0.25, "these_recipes": {"low": 0.1, "high": 0.4}}
    comparison["contrast"] |= {"outcome": "a", "difference": difference}
    for success, outcome in ((None, "reduced"), (0.05, "reduced"), (0.1, "undecided"), (0.3, "undecided")):
        given = verdict({**comparison, "success": success, "premise": None})
        assert given["outcome"] == outcome
        assert ("undecided whether by more than" in given["sentence"]) == (outcome == "undecided")


def test_a_setting_that_protocols_have_gained_since_is_no_difference_unless_it_is_used():
    study = study_spec(protocols={"truth": study_spec().protocols["truth"].model_dump(mode="json"), "sharp": SHARP})
    now, before = registered_content(study), registered_content(study)
    assert "tolerance" not in now["candidates"]["sharp"], "a setting at its default is in no lock"
    before["candidates"]["sharp"]["tolerance"] = 1e-3  # as a lock has it that was written with all defaults
    assert differences(before, now) == differences(now, before) == []
    used = study_spec(protocols={**before["truth"], "sharp": {**SHARP, "tolerance": 0.5}})
    assert differences(before, registered_content(used)) == ["candidates.sharp"]
