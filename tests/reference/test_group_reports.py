"""Reports of a group's runs come as the runs end, and not when their task does."""

import json
import os
import signal
import sys

import pytest

import raystudy.execute.groups
import raystudy.execute.local
from raystudy.execute.local import InlineExecutor, LocalExecutor
from tests.reference.test_groups import a_task, ids

pytestmark = pytest.mark.timeout(40)

# A rank that reports its first run, and the others once the file GO is there.
RANK = """
import json, os, sys, time
parent = os.getppid()
for number, run_id in enumerate(json.loads(os.environ["IDS"]) if os.environ["RANK"] == "0" else []):
    while number and not os.path.exists(os.environ["GO"]):
        time.sleep(0.02)
        if os.getppid() != parent:
            sys.exit(1)
    with open(os.environ["RAYSTUDY_GROUP_FOLDER"] + "/reports.jsonl", "a") as file:
        file.write(json.dumps({"run_id": run_id, "status": "finished"}) + "\\n")
"""
# A worker of `--local` whose groups are of such ranks.
WORKER = f"""
import sys
from raystudy.execute import groups, worker
real = groups.group_reports
groups.group_reports = lambda task: real(task, (sys.executable, "-c", {RANK!r}))
worker.main()
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of three runs whose group is of such ranks, however it is made."""
    made, real = a_task(tmp_path, 3), raystudy.execute.groups.group_reports
    monkeypatch.setenv("IDS", json.dumps(ids(made)))
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    monkeypatch.setattr(raystudy.execute.local, "WORKER", (sys.executable, "-c", WORKER))
    monkeypatch.setattr(raystudy.execute.groups, "group_reports", lambda task: real(task, (sys.executable, "-c", RANK)))
    return made


@pytest.mark.parametrize("make_executor", [InlineExecutor, lambda: LocalExecutor(2)], ids=["inline", "workers"])
def test_a_run_is_reported_while_the_next_of_its_group_goes_on(task, tmp_path, make_executor):
    with make_executor() as executor:
        reports = executor.run([task])
        assert next(reports).run_id == ids(task)[0]
        (tmp_path / "go").touch()
        assert [(report.run_id, report.status) for report in reports] == [(i, "finished") for i in ids(task)[1:]]


def test_a_run_that_was_reported_is_not_reported_again_when_the_worker_then_dies(task):
    with LocalExecutor(2) as executor:
        reports = executor.run([task])
        next(reports)
        (victim,) = (worker.process for worker in executor._busy)
        os.kill(victim.pid, signal.SIGKILL)
        left = list(reports)
    assert [report.run_id for report in left] == ids(task)[1:]
    assert all(report.status == "failed" and "killed by signal 9" in report.cause for report in left)


def test_a_driver_that_gives_up_in_the_middle_of_a_group_ends_it(task, monkeypatch):
    ended = []
    stop = raystudy.execute.groups.Group._stop
    monkeypatch.setattr(raystudy.execute.groups.Group, "_stop", lambda self: (stop(self), ended.append(self._ranks)))
    with InlineExecutor() as executor:
        reports = executor.run([task])  # held on to, as by the traceback of an error
        next(reports)
    assert [rank.poll() is not None for ranks in ended for rank in ranks] == [True, True]
    assert not list(reports)
