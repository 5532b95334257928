"""What a run takes: said for all runs of a study, or for those of one model; no part of what a run is."""

import pytest
import torch

from raystudy.errors import SpecError
from raystudy.execute.work import Task, do_task
from raystudy.specs.load import load_study
from raystudy.study.state import StudyState
from tests.conftest import TINY
from tests.planted import inputs_of
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
