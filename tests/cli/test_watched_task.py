"""What becomes of the runs of a job whose process is killed or stopped; that process is a line of bash here."""

import json
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import IncompleteError, StoppedError
from raystudy.execute.run_task import read_tasks
from raystudy.execute.watched_task import make_watched
from raystudy.execute.work import Task, do_task
from tests.cli.test_slurm import a_task_file
from tests.conftest import make_shards
from tests.train.test_checkpoints import a_long_run


def test_a_process_that_is_killed_costs_the_run_it_was_making_an_attempt(tmp_path):
    view, validation = make_shards(tmp_path)
    run = a_long_run(view)
    tasks = read_tasks(a_task_file(tmp_path, run, tmp_path, validation)[0])
    with pytest.raises(Exception, match="killed by signal 9, by hand or for want of memory"):
        make_watched(["bash", "-c", "kill -9 $$"], tasks)
    (attempt,) = Storage(tmp_path).runs.read_attempts(run.run_id)
    assert "--mem" in attempt["cause"]
    assert make_watched(["bash", "-c", "exit 6"], tasks) == 6


def test_a_process_killed_while_it_evaluates_a_run_that_has_a_record_has_failed_that_run(tmp_path, monkeypatch):
    view, validation = make_shards(tmp_path)
    runs = [a_long_run(view, steps=steps) for steps in (2, 3)]
    storage, text = Storage(tmp_path), tuple(run.model_dump_json() for run in runs)
    (tmp_path / "t.jsonl").write_text(json.dumps(vars(Task(text, str(tmp_path), {validation: "v"}))))
    tasks = read_tasks(tmp_path / "t.jsonl")
    assert [report.status for report in do_task(tasks[0].task)] == ["finished"] * 2
    assert make_watched(["bash", "-c", "kill -9 $$"], tasks) == 137, "all is there, but that is no success"
    monkeypatch.setenv("SLURM_JOB_ID", "80")
    more = replace(tasks[0].task, validation={validation: "v", "f" * 32: "added later"})
    with pytest.raises(IncompleteError, match="killed by signal 9"):
        make_watched(["bash", "-c", "kill -9 $$"], [replace(tasks[0], task=more)])
    assert [len(storage.runs.read_attempts(run.run_id)) for run in runs] == [1, 0]
    with pytest.raises(IncompleteError, match="killed by signal 9"):
        make_watched(["bash", "-c", "kill -9 $$"], [replace(tasks[0], task=more)])
    assert [len(storage.runs.read_attempts(run.run_id)) for run in runs] == [1, 1], "the next: that one has failed"


@pytest.mark.parametrize("ends", ["kill -TERM $$", "kill -INT $$", "exit 143", "exit 130"])
def test_a_process_that_is_stopped_before_it_listens_goes_on_and_costs_no_run_an_attempt(tmp_path, ends):
    view, validation = make_shards(tmp_path)
    run = a_long_run(view)
    tasks = read_tasks(a_task_file(tmp_path, run, tmp_path, validation)[0])
    with pytest.raises(StoppedError, match=r"stopped by SIG(TERM|INT) .* The same command goes on"):
        make_watched(["bash", "-c", ends], tasks)
    assert Storage(tmp_path).runs.read_attempts(run.run_id) == []
