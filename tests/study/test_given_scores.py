"""What a lock says of scores that are given: it holds them, or their checksum, and they alone confirm nothing."""

import json

import pytest

from raystudy.artifacts.study_lock import read_lock, write_lock
from raystudy.errors import DataError
from raystudy.study.comparing import compare_study
from raystudy.study.preregistration import confirmatory, differences, registered_content
from raystudy.study.state import StudyState
from tests.planted import RECIPES, SPACE, curved_loss, inputs_of, planted_state, study_spec

TUNED = {name: 2 + 0.1 * place for place, name in enumerate(RECIPES)}
BEST = dict.fromkeys(RECIPES, 1e-2)


def a_table(path, shift=0.0):
    path.parent.mkdir(exist_ok=True)
    path.write_text("recipe,score\n" + "".join(f"{name},{loss + shift}\n" for name, loss in TUNED.items()))
    return path


def with_table(path, **protocols):
    """A study whose truth is known and whose candidate is a table's, and further candidates."""
    given = {"truth": {"kind": "known", "scores": TUNED}, "given": {"kind": "table", "file": str(path)}}
    return study_spec(protocols={**given, **protocols}, comparison={"resamples": 300})


def locked(folder, study):
    assert write_lock(folder, registered_content(study), [])
    return read_lock(folder)


def test_a_lock_holds_a_tables_checksum_and_not_its_place(tmp_path):
    study = with_table(a_table(tmp_path / "here" / "t.csv"))
    before = registered_content(study)
    assert str(tmp_path) not in json.dumps(before)
    moved = with_table(a_table(tmp_path / "elsewhere" / "other.csv"))
    assert differences(before, registered_content(moved)) == []
    a_table(tmp_path / "here" / "t.csv", shift=0.5)
    assert differences(before, registered_content(study)) == ["candidates.given"]


def test_given_scores_alone_confirm_nothing_and_an_edited_table_is_named(tmp_path):
    study = with_table(a_table(tmp_path / "t.csv"))
    state, lock = StudyState(study, inputs_of(study), {}), locked(tmp_path, study)
    comparison = compare_study(state, lock)
    assert (comparison["confirmatory"], comparison["missing"]) == (False, [])
    assert comparison["confirmatory_reason"].startswith("no record stands behind it")
    assert "onfirmatory" not in comparison["verdict"]["sentence"]
    a_table(tmp_path / "t.csv", shift=0.5)
    reason = compare_study(state, lock)["confirmatory_reason"]
    assert reason == "the study has changed since it was locked: candidates.given"


def test_a_table_beside_runs_that_were_started_later_leaves_a_study_confirmatory(tmp_path):
    ladder = {"kind": "lr-ladder", "model": "proxy", "space": SPACE, "seeds": [0]}
    study = with_table(a_table(tmp_path / "t.csv"), ladder=ladder)
    state, lock = planted_state(curved_loss(TUNED, BEST), study), locked(tmp_path, study)
    for record in state.records.values():
        record.result["provenance"] = {"started_at": lock.locked_at.isoformat()}
    assert confirmatory(state, lock, is_complete=True)["confirmatory"] is True
    a_table(tmp_path / "t.csv", shift=0.5)
    assert confirmatory(state, lock, is_complete=True)["confirmatory"] is False


def test_a_lock_whose_table_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no\.csv"):
        registered_content(with_table(tmp_path / "no.csv"))


def test_defaults_are_not_registered_and_a_lock_that_holds_them_is_still_the_same():
    study = study_spec()
    content = registered_content(study)
    dumped = {name: protocol.model_dump(mode="json") for name, protocol in study.protocols.items()}
    earlier = {**content, "truth": {study.truth: dumped.pop(study.truth)}, "candidates": dumped}
    assert len(json.dumps(content)) < len(json.dumps(earlier))
    assert differences(earlier, content) == []
    earlier["candidates"]["ladder"]["seeds"] = [0, 1]
    assert differences(earlier, content) == ["candidates.ladder"]
