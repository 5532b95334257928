"""Launches that are killed, stopped or doubled: nothing finished is lost or repeated, the comparison stays the same."""

import pytest

from tests.faults.trials import KINDS

MOST_TRIES = 6  # a disturbance at a random moment may come when the launch has ended; how soon depends on the machine


@pytest.mark.parametrize("kind", KINDS)
def test_a_disturbed_study_ends_as_if_nothing_had_happened(kind, tmp_path, reference):
    for seed in range(1, 1 + MOST_TRIES):
        trial = KINDS[kind](tmp_path / f"storage-{seed}", seed, reference)
        assert trial.is_good, trial
        if trial.disturbed:
            return
    pytest.fail(f"none of {MOST_TRIES} disturbances hit a launch that was at work")
