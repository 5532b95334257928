"""What a run takes: said for all runs of a study, or for those of one model; no part of what a run is."""

import pytest
import torch

from raystudy.errors import SpecError
from raystudy.execute.emitted import _devices
from raystudy.execute.tasks import make_tasks
from raystudy.execute.work import Task, do_task
from raystudy.specs.load import load_study
from raystudy.study.speeds import ASSUMED_GPU_FLOPS_PER_SECOND, Speeds
from raystudy.study.spending import Cost, Rates
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave
from tests.conftest import TINY
from tests.planted import inputs_of, record_of, study_spec
from tests.train.test_training import a_run


def test_a_model_may_take_other_resources_than_the_study_says_and_its_runs_stay_the_same():
    plain = load_study(TINY).spec
    own = load_study(TINY, ["models.proxy.resources={gpus_per_run: 0.25}", "resources.cpus_per_run=2"]).spec
    assert own.resources_of("proxy").model_dump() == {**own.resources.model_dump(), "gpus_per_run": 0.25}
    assert own.resources_of("target") == own.resources_of("") == own.resources
    assert (own.device_of("proxy"), own.device_of("target")) == ("cuda", "cpu")
    assert (own.resources_of("proxy").num_devices, own.resources_of("target").num_devices) == (0.25, 2.0)
    ids = [StudyState(s, inputs_of(s), {}).want("proxy", s.recipes[0].name, 1e-3, 0).run_id for s in (plain, own)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "models.proxy.resources={gpus_per_run: 1.5}",
            "must be a share of one GPU (0 to 1) or a whole number, but got",
        ),
        ("resources.gpus_per_run=2.5", "must be a share of one GPU (0 to 1) or a whole number, but got 2.5"),
        ("models.proxy.resources={gpus: 1}", "gpus"),
        (
            "models.proxy={kind: decoder, layers: 1, width: 16, heads: 1, context: 32, resources: {cpus_per_run: 2}, "
            "engine: {kind: deepspeed, workers: 2}}",
            "what a run takes must be said once, but model 'proxy' has an engine of workers and resources",
        ),
    ],
)
def test_what_cannot_be_taken_is_refused_by_the_check(override, told):
    with pytest.raises(SpecError) as refused:
        load_study(TINY, [override])
    assert told in str(refused.value)


def test_a_run_on_a_share_of_a_gpu_may_take_that_share_of_its_memory_and_one_on_whole_ones_all(tmp_path, monkeypatch):
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    for gpus in (0.25, 2.0):
        task = Task((a_run("0" * 32).model_dump_json(),), str(tmp_path), {}, device="cuda", gpus=gpus)
        assert [report.status for report in do_task(task)] == ["failed"], "there are no such shards"
    assert limits == [0.25, 1.0]


GPUS = {"cpus_per_run": 8, "gpus_per_run": 4}


def with_a_gpu_target(**changes):
    """The planted study on CPU cores, its target alone on four GPUs."""
    models = study_spec().model_dump(mode="json")["models"]
    models["target"]["resources"] = GPUS
    return study_spec(models=models, **changes)


def test_the_cost_of_a_run_is_that_of_its_models_own_resources():
    prices = {"as_of": "2026-11-01", "cpu_core": 0.5, "gpus": {"H100": 3.0}}
    study = with_a_gpu_target(budget={"money": 100, "currency": "EUR", "prices": prices})
    state = StudyState(study, inputs_of(study), {})
    runs = {run.model: run for run in make_wave(state).todo}
    rates = Rates(state)
    assert rates.run(runs["target"], 3600.0) == rates.protocol("truth", 3600.0) == Cost(4.0, 12.0)
    assert rates.run(runs["proxy"], 3600.0) == rates.protocol("standard", 3600.0) == Cost(1.0, 0.5)


def test_the_speed_of_one_device_is_no_estimate_of_anothers():
    study = with_a_gpu_target()
    inputs = inputs_of(study)
    todo = make_wave(StudyState(study, inputs, {})).todo
    quick = {run.run_id: record_of(run, 1.0, inputs) for run in todo if run.model == "proxy"}
    speeds = Speeds(StudyState(study, inputs, quick), slots=2)
    target = speeds.speed(speeds.kind_of_protocol("truth"))
    assert (target.is_measured, target.flops_per_second) == (False, ASSUMED_GPU_FLOPS_PER_SECOND)
    assert {speeds.kind_of(run) == speeds.kind_of_protocol("truth") for run in todo if run.model == "target"} == {True}
    assert speeds.speed(speeds.kind_of_protocol("standard")).is_measured
    assert speeds.of_one_process() == speeds.speed(speeds.kind_of_protocol("standard"))


def test_a_budget_of_money_needs_a_price_for_what_one_model_alone_takes():
    money = "budget={money: 5, currency: EUR, prices: {as_of: 2026-11-01, cpu_core: 1}}"
    with pytest.raises(SpecError, match="must have a price for GPUs"):
        load_study(TINY, [money, "models.target.resources={gpus_per_run: 4}"])
    load_study(TINY, [money, "models.target.resources={cpus_per_run: 4}"])
    of_gpus = [money.replace("cpu_core: 1", "gpus: {H100: 1}"), "models.target.resources={gpus_per_run: 4}"]
    with pytest.raises(SpecError, match="must have a price for CPU cores"):
        load_study(TINY, of_gpus)
    assert load_study(TINY, [*of_gpus, "models.proxy.resources={gpus_per_run: 1}"]).spec.devices == {"cuda"}


def test_a_job_of_slurm_asks_for_what_its_tasks_models_take():
    study = with_a_gpu_target()
    todo = make_wave(StudyState(study, inputs_of(study), {})).todo
    tasks = make_tasks(todo, "s", {}, study.resources, own=study.own_resources)
    asked = {task.device: _devices(task) for task in tasks}
    assert asked == {"cuda": (8, 4), "cpu": (1, 0)}
