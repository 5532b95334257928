"""Launches that are killed, stopped or doubled: nothing finished is lost or repeated, the comparison stays the same."""

import pytest

from tests.faults.trials import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_disturbed_study_ends_as_if_nothing_had_happened(kind, tmp_path, reference):
    trial = KINDS[kind](tmp_path / "storage", 1, reference)
    assert trial.is_good, trial
    assert trial.disturbed
