"""A group of two real DeepSpeed workers whose runs meet one fault each, all in one task."""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from raystudy.artifacts.processes import place_tag
from raystudy.artifacts.storage import Storage
from raystudy.execute.groups import Group, run_group
from raystudy.execute.work import RunReport, Task
from raystudy.specs.engines import DeepSpeedEngine
from tests.conftest import make_shards
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(600)

KILLED, PROGRAM, PREEMPTED, MEMORY, HANGS, REFUSED = range(6)
PLANTS = [
    {"seed": KILLED, "rank": 1, "step": 15, "what": "SIGKILL"},
    {"seed": PROGRAM, "rank": 1, "step": 5, "what": "program", "times": 9},
    {"seed": PREEMPTED, "rank": 0, "step": 12, "what": "SIGTERM"},
    {"seed": MEMORY, "rank": 1, "step": 3, "what": "memory"},
    {"seed": HANGS, "rank": 1, "step": 11, "what": "sleep"},
    {"seed": REFUSED, "rank": 1, "step": 5, "what": "refused", "times": 9},
]
UNHARMED = (KILLED, PREEMPTED, MEMORY, HANGS)  # in the end
ENTRY = (sys.executable, "-m", "tests.reference.planted_rank")


def group_task(storage: Path, seeds, *, steps: int = 20, **engine) -> Task:
    """A task of two workers at ZeRO 2 with a checkpoint every five steps, a run for each seed."""
    view, validation = make_shards(storage)
    settings = {"zero_stage": 2, "workers": 2, "checkpoint_steps": 5, "checkpoint_minutes": None} | engine
    runs = [a_run(view, steps, seed=seed).model_copy(update={"engine": "deepspeed"}) for seed in seeds]
    group = DeepSpeedEngine(kind="deepspeed", **settings).model_dump_json()
    return Task(tuple(run.model_dump_json() for run in runs), str(storage), {validation: "v"}, group=group)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory) -> tuple[Path, list[RunReport], list[str]]:
    """The storage, the reports by seed, and the ids."""
    storage, met = tmp_path_factory.mktemp("disturbed"), tmp_path_factory.mktemp("met")
    task = group_task(storage, range(6), max_failures=1, hang_minutes=2 / 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTS", json.dumps(PLANTS))
        patch.setenv("PLANTS_MET", str(met))
        reports = run_group(task, ENTRY)
    ids = [run.run_id for run in task.specs()]
    return storage, [next(report for report in reports if report.run_id == run_id) for run_id in ids], ids


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Storage:
    storage = tmp_path_factory.mktemp("undisturbed")
    reports = run_group(group_task(storage, UNHARMED))
    assert [report.status for report in reports] == ["finished"] * len(UNHARMED)
    assert all(report.is_made and not report.note for report in reports)
    return Storage(storage)


def losses(storage: Storage, run_id: str) -> list[float]:
    (row,) = (row for row in storage.runs.read(run_id).result["metrics"] if row["name"] == "loss")
    return [row["value"], *(float(row["loss"]) for row in storage.runs.read_curve(run_id))]


@pytest.mark.parametrize("seed", UNHARMED)
def test_runs_that_met_a_fault_end_with_the_losses_of_undisturbed_ones(disturbed, undisturbed, seed):
    storage, reports, ids = disturbed
    assert reports[seed].status == "finished", reports[seed].cause
    assert losses(Storage(storage), ids[seed]) == pytest.approx(losses(undisturbed, ids[seed]), rel=1e-6)


def test_a_killed_worker_is_named_and_its_run_goes_on_from_the_newest_checkpoint(disturbed):
    storage, reports, ids = disturbed
    assert "worker 1 of 2 was killed by signal 9" in reports[KILLED].note
    provenance = Storage(storage).runs.read(ids[KILLED]).result["provenance"]
    assert provenance["resumed_from_step"] == 15
    assert any("killed by signal 9" in note for note in provenance["notes"])


def test_the_first_cause_is_told_once_and_not_what_followed_from_it(disturbed):
    _, reports, _ = disturbed
    assert (reports[PROGRAM].status, reports[PROGRAM].cause) == ("failed", "ValueError: planted")
    assert (reports[REFUSED].status, reports[REFUSED].cause) == ("failed", "planted: mend it")


def test_an_error_that_comes_again_is_tried_twice_and_one_to_mend_once(disturbed, tmp_path_factory):
    met = sorted(path.name for path in next(tmp_path_factory.getbasetemp().glob("met*")).iterdir())
    assert [name for name in met if name.startswith(f"{PROGRAM}-")] == [f"{PROGRAM}-program-{n}" for n in (0, 1)]
    assert [name for name in met if name.startswith(f"{REFUSED}-")] == [f"{REFUSED}-refused-0"]
    assert disturbed[1][PREEMPTED].status == "finished"


def test_memory_that_does_not_suffice_halves_the_micro_batch_and_says_so(disturbed):
    storage, reports, ids = disturbed
    assert "out of memory with micro-batches of 32 tokens; begun again with micro-batches of 16" in reports[MEMORY].note
    assert Storage(storage).runs.read(ids[MEMORY]).result["provenance"]["micro_batch_sequences"] == 1


def test_a_worker_that_hangs_is_named(disturbed):
    _, reports, _ = disturbed
    assert "worker 1 of 2 hung in data of step 11 (planted_rank.py, line" in reports[HANGS].note
    assert "worker 0 waited" in reports[HANGS].note


def test_no_process_and_no_folder_of_a_group_is_left(disturbed, undisturbed):
    del disturbed, undisturbed
    assert ranks_of_groups() == []
    assert folders_of_groups() == []


def test_ranks_and_folders_of_a_group_are_seen_while_they_are_there(tmp_path):
    with Group(group_task(tmp_path, [0]), (sys.executable, "-c", "import time; time.sleep(60)")):
        deadline = time.monotonic() + 10  # a process that has just been started has no words of its own yet
        while len(ranks_of_groups()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(ranks_of_groups()) == 2
        assert len(folders_of_groups()) == 1
    assert ranks_of_groups() == folders_of_groups() == []


def folders_of_groups() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"raystudy-group-{place_tag()}-{os.getpid()}-*"))


def ranks_of_groups() -> list[str]:
    """The command lines of processes that this one started as ranks: their task lies in a group's folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
            found += [words] if f"raystudy-group-{place_tag()}-{os.getpid()}-" in words else []
    return found
