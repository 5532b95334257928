"""What a launch may still start is guessed from trainings alone, and everything that held a device is counted."""

from dataclasses import replace

import pytest

from raystudy.execute.budget import Budget, Spending, recorded_seconds
from raystudy.execute.utilisation import Devices
from raystudy.specs.study import Resources
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave
from tests.planted import inputs_of, record_of, study_spec, synthetic_spec

HOUR = 3600.0


def a_state(recorded=0, seconds=0.0, status="finished"):
    """A study with so many recorded runs of its target model, and the runs of that model that are left."""
    study = study_spec()
    inputs = inputs_of(study)
    runs = [run for run in make_wave(StudyState(study, inputs, {})).todo if run.model == "target"]
    records = {
        run.run_id: replace(record_of(run, 3.0, inputs), status=status, result={"seconds": {"total": seconds}})
        for run in runs[:recorded]
    }
    return StudyState(study, inputs, records), runs[recorded:]


def spend(hours, state, todo, seconds, *, is_made):
    """The sizes of the batches until nothing is let go, every run of which takes `seconds`; and what was spent."""
    spending = Spending(Budget(max_device_hours=hours), Resources(cpus_per_run=1), num_at_once=2)
    sizes = []
    while chosen := spending.affordable(todo, state):
        sizes.append(len(chosen))
        todo = todo[len(chosen) :]
        for run in chosen:
            spending.ended(run, seconds, is_made=is_made)
    return sizes, spending.device_seconds


def test_runs_that_die_are_counted_and_show_nothing_of_what_a_training_takes():
    state, todo = a_state()
    sizes, spent = spend(0.1, state, todo, 100.0, is_made=False)
    assert sizes == [2, 2]
    assert spent == 400.0, "no more beyond the limit than the runs that go on at once"


def test_evaluations_do_not_make_trainings_look_short():
    state, todo = a_state(recorded=6, seconds=600.0)
    spending = Spending(Budget(max_device_hours=1), Resources(cpus_per_run=1), num_at_once=2)
    for run in spending.affordable(todo, state):
        spending.ended(run, 0.1, is_made=False)
    assert len(spending.affordable(todo, state)) == 2


def test_quick_trainings_of_a_launch_do_not_bring_the_guess_under_what_is_on_record():
    state, todo = a_state(recorded=6, seconds=600.0)
    sizes, spent = spend(1, state, todo, 10.0, is_made=True)
    assert max(sizes) == 3
    assert spent <= HOUR - 590.0
    slow, _ = spend(1, state, todo, 1000.0, is_made=True)
    assert slow == [3], "of trainings that take longer than those on record no fourth fits"


@pytest.mark.parametrize(
    ("devices", "num"),
    [(Devices(6.0), 6), (Devices(6.0, 8.0), 6), (Devices(0.5), 1), (Devices(0.0), 2), (None, 2)],
)
def test_runs_that_are_not_timed_start_as_many_as_the_devices_that_are_there_hold(devices, num):
    """Not as many as the driver's machine has cores, here 2; a cluster that is still to grow has none."""
    state, todo = a_state()
    spending = Spending(Budget(max_device_hours=1), Resources(cpus_per_run=1), num_at_once=2)
    assert len(spending.affordable(todo, state, devices)) == num
    own = {"target": Resources(gpus_per_run=0.5)}
    spending = Spending(Budget(max_device_hours=1), Resources(), num_at_once=2, own=own)
    assert len(spending.affordable(todo, state, Devices(64.0, 2.0))) == 4


@pytest.mark.parametrize(("status", "num"), [("finished", 6), ("diverged", 6), ("out-of-memory", 0)])
def test_only_trainings_that_went_to_an_end_are_timings(status, num):
    assert len(recorded_seconds(a_state(6, 5.0, status)[0], ("target", ""))) == num


def test_probes_on_record_are_timings_of_probes_alone():
    protocols = {**study_spec().model_dump(mode="json", exclude_unset=True)["protocols"]}
    protocols["alignment"] = {"kind": "gradient-alignment", "model": "target"}
    study = synthetic_spec(protocols=protocols)
    inputs = inputs_of(study)
    wanted = make_wave(StudyState(study, inputs, {})).wanted.values()
    records = {
        run.run_id: replace(record_of(run, 1.0, inputs), result={"seconds": {"total": 7.0 if run.lr is None else 2.0}})
        for run in wanted
    }
    state = StudyState(study, inputs, records)
    assert set(recorded_seconds(state, ("target", ""))) == {2.0}
    assert set(recorded_seconds(state, ("target", "gradient-alignment"))) == {7.0}
