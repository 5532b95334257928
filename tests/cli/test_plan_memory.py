"""What `raystudy plan` says of the memory of models that workers train, and runs that ended out of memory."""

import json

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.cli.main import main
from raystudy.errors import MissingPackageError
from raystudy.execute import machine, out_of_memory
from raystudy.execute.frozen_data import find_data
from raystudy.execute.inputs import need_deepspeed
from raystudy.execute.machine import WorkerMemory, gpu_memory, machine_memory, memory_of_worker
from raystudy.execute.out_of_memory import out_of_memory_words
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.load import load_study
from raystudy.specs.memory import GIB
from raystudy.study.frozen import Frozen
from raystudy.study.results import read_records
from raystudy.study.waves import make_wave
from tests.conftest import TINY


def engine(**fields) -> str:
    told = ", ".join(f"{name}: {value}" for name, value in {"kind": "deepspeed", "workers": 2, **fields}.items())
    return f"models.target.engine={{{told}}}"


def plan(storage, capsys, *overrides):
    """The plan's text, and its JSON."""
    path = storage.parent / "plan.json"
    changed = [word for override in overrides for word in ("--set", override)]
    assert main(["plan", str(TINY), "--storage", str(storage), "--json", str(path), *changed]) == 0
    return capsys.readouterr().out, json.loads(path.read_text())["memory"]


def leave_records(storage, overrides, status, num_bytes=0):
    """Records of two of the target's runs; a wanted run of the target."""
    loaded, place = load_study(TINY, overrides), Storage(storage)
    state = read_records(place, loaded.spec, find_data(loaded, place, Frozen()).before, {})
    runs = [run for run in make_wave(state).wanted.values() if run.model == "target"]
    for factor, run in enumerate(runs[:2], 1):
        spec = run.run.model_dump(mode="json")
        result = {"status": status, "spec": spec, "metrics": [], "seconds": {"total": 1.0}}
        peak = {"peak_memory": {"bytes": num_bytes * factor, "of": "process"}} if num_bytes else {}
        place.runs.write_result(run.run_id, {**result, "provenance": peak})
    return runs[0], state


def test_a_plan_estimates_every_stage_for_models_of_workers_alone_and_marks_the_chosen_one(tmp_path, capsys):
    text, memory = plan(tmp_path / "storage", capsys)
    assert memory == []
    assert "memory" not in text
    text, (row,) = plan(tmp_path / "storage", capsys, engine(zero_stage=2, micro_batch_tokens=32))
    assert "one of 2 workers of model 'target' on CPUs" in text
    lines = [line for line in text.splitlines() if line[:2] in ("0 ", "1 ", "2 ", "3 ")]
    assert [line.startswith("2 (chosen)") for line in lines] == [False, False, True, False]
    assert list(row["stages"]) == ["0", "1", "2", "3"]
    assert (row["zero_stage"], row["tokens_at_once"], row["workers"]) == (2, 32, 2)
    assert all(stage["total"] > stage["weights"] > 0 for stage in row["stages"].values())
    assert "they are kept" not in text
    large, _ = plan(tmp_path / "storage", capsys, engine(), "models.target.width=1024", "models.target.layers=2")
    assert "weights of model 'target' are 100 MiB in FP32, above the 50 MB up to which they are kept" in large
    assert row["measured"] is None


def test_a_plan_says_when_one_device_is_enough_and_when_it_is_not(tmp_path, capsys, monkeypatch):
    text, _ = plan(tmp_path / "storage", capsys, engine())
    assert "one device is enough for model 'target'" in text
    assert "this machine's" in text
    text, _ = plan(tmp_path / "storage", capsys, engine(memory_gib=0.001))
    assert "one device is not enough for model 'target'" in text
    assert "engine.memory_gib" in text
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    text, (row,) = plan(tmp_path / "storage", capsys, engine(gpus_per_worker=1))
    assert "no GPU is seen here, and engine.memory_gib is not given" in text
    assert "one device is enough for model 'target' if it has about" in text
    assert row["device"] == "cuda"
    assert row["remarks"][-1] in text


def test_measured_peaks_stand_beside_the_estimate(tmp_path, capsys):
    storage = tmp_path / "storage"
    leave_records(storage, [engine()], "finished", 3 * GIB)
    text, (row,) = plan(storage, capsys, engine())
    assert "at most 6 GiB of a worker, of the whole process" in text
    assert (row["measured"], row["measured_of"]) == (6 * GIB, "process")


def test_runs_that_ended_out_of_memory_name_what_would_fit(tmp_path, capsys, monkeypatch):
    storage, changed = tmp_path / "storage", engine(micro_batch_tokens=128, memory_gib=0.001)
    run, state = leave_records(storage, [changed], "out-of-memory")
    text, (row,) = plan(storage, capsys, changed)
    assert row["out_of_memory"] == 2
    assert "2 runs ended out of memory. A worker needs about" in text
    monkeypatch.setattr(out_of_memory, "memory_of_worker", lambda _: WorkerMemory(None, "not known"))
    assert "say engine.memory_gib" in out_of_memory_words(run, state.study)
    enough = WorkerMemory(20 * 2**20, "a test")
    monkeypatch.setattr(out_of_memory, "memory_of_worker", lambda _: enough)
    words = out_of_memory_words(run, state.study)
    assert words.startswith("out of memory. A worker needs about")
    assert words.endswith("(a test). Then remove the run's folder")


def test_the_memory_of_a_worker_is_what_the_study_says_else_its_share_of_the_machine(monkeypatch, tmp_path):
    told = memory_of_worker(DeepSpeedEngine(kind="deepspeed", memory_gib=2.5))
    assert told == WorkerMemory(5 * GIB // 2, "engine.memory_gib")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (limit,))
    whole = machine_memory()
    limit.write_text("max\n")
    assert machine_memory() == whole > GIB // 2
    limit.write_text(f"{2**28}\n")
    shared = memory_of_worker(DeepSpeedEngine(kind="deepspeed", workers=2))
    assert shared.num_bytes == 2**27
    assert "shared by 2 workers" in shared.source


@pytest.mark.parametrize(
    ("script", "expected"),
    [("printf '81559\\n40000\\n'", 40000 * 2**20), ("echo no devices; exit 9", None), ("echo '[N/A]'", None)],
)
def test_the_memory_of_gpus_is_that_of_the_smallest_that_nvidia_smi_tells(script, expected, monkeypatch, tmp_path):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gpu_memory() == expected


def test_a_launch_of_a_model_of_workers_asks_for_deepspeed_by_the_name_of_its_extra(monkeypatch, tmp_path, capsys):
    study, plain = load_study(TINY, [engine()]).spec, load_study(TINY).spec
    need_deepspeed(study)
    monkeypatch.setattr("raystudy.execute.inputs.find_spec", lambda name: None if name == "deepspeed" else True)
    need_deepspeed(plain)
    with pytest.raises(
        MissingPackageError, match=r"deepspeed must be installed to train model 'target'.*\[deepspeed\]"
    ):
        need_deepspeed(study)
    assert main(["run", str(TINY), "--local", "--storage", str(tmp_path / "storage"), "--set", engine()]) == 7
    assert "raystudy[deepspeed]" in capsys.readouterr().err
