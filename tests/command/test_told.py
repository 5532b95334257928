"""What a study of commands tells: its costs in devices, and what to do when memory does not suffice."""

from types import SimpleNamespace

import pytest

from raystudy.artifacts.results import Record
from raystudy.artifacts.storage import Storage
from raystudy.cli.report import provenance
from raystudy.execute.command_tasks import make_command_tasks
from raystudy.execute.inputs import find_inputs
from raystudy.execute.out_of_memory import out_of_memory_words
from raystudy.execute.work import do_task
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.load import load_study
from raystudy.study.cost import cost
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave
from tests.command.studies import external_study


def test_a_second_of_a_command_that_holds_eight_gpus_is_eight_device_seconds_wherever_they_are_told(tmp_path):
    study, storage = load_study(external_study(tmp_path), ["resources.gpus_per_run=8"]).spec, Storage(tmp_path)
    inputs = find_inputs(study, storage)
    (run, *_) = make_wave(StudyState(study, inputs, {})).todo
    digests = {digest: name for name, digest in inputs.validation.items()}
    (task,) = make_command_tasks([run], str(tmp_path), digests, study)
    (report,) = do_task(task)
    assert report.status == "finished", report.cause
    record = storage.runs.read(run.run_id)
    state = StudyState(study, inputs, {run.run_id: record})
    assert record.result["seconds"]["total"] > 0
    wanted = pytest.approx(8 * record.result["seconds"]["total"])
    assert cost(state, [run])["device_seconds"] == wanted
    results = SimpleNamespace(state=state, folder=storage.study("foreign"), storage=storage)
    assert provenance(results)["device_seconds"] == wanted


@pytest.mark.parametrize(
    ("made", "devices"),
    [({}, 1), ({"workers": 2}, 2), ({"workers": 2, "num_devices": 8.0}, 8), ({"num_devices": 4}, 4)],
)
def test_device_seconds_of_a_record_are_its_wall_time_on_the_devices_it_says_or_one_a_worker(made, devices):
    record = Record("0" * 32, "finished", {}, {"seconds": {"total": 3.0}, "provenance": made})
    assert (record.seconds, record.device_seconds) == (3.0, 3.0 * devices)


def test_a_group_holds_the_gpus_or_else_the_cores_of_all_its_workers():
    engine = {"kind": "deepspeed", "workers": 4, "cpus_per_worker": 2}
    assert DeepSpeedEngine(**engine).num_devices == 8
    assert DeepSpeedEngine(**engine, gpus_per_worker=1).num_devices == 4


def test_a_command_out_of_memory_is_not_told_to_lower_what_it_does_not_heed(tmp_path):
    study = load_study(external_study(tmp_path)).spec
    (run, *_) = make_wave(StudyState(study, find_inputs(study, Storage(tmp_path)), {})).todo
    told = out_of_memory_words(run, study)
    assert "micro_batch_tokens" not in told
    assert "resources.gpus_per_run" in told
    assert "engine.command" in told
