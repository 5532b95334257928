"""Ray Tune executes the tasks: the same records as without Ray, on the cluster it was given, killed and relaunched."""

import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.distribute.ends import Ends
from raystudy.distribute.lanes import Lane
from raystudy.distribute.tune_lane import _Telling
from raystudy.execute.shapes import shape_of
from raystudy.execute.work import Task
from raystudy.study.results import StudyResults
from tests.conftest import TINY
from tests.execute.test_local import copy_inputs, kill_in_the_middle, launch_driver, results_on, without_seconds
from tests.ray_cluster import descendants, listening
from tests.train.test_training import a_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def losses_on(storage: Path) -> dict[str, list[dict[str, object]]]:
    return {path.parent.name: json.loads(path.read_text())["metrics"] for path in storage.glob("runs/*/result.json")}


def test_tune_makes_the_same_records_as_local_workers_on_the_cluster_it_is_given(
    tmp_path, tiny_storage, ray_cluster, cli
):
    storage = copy_inputs(tiny_storage, tmp_path / "storage", lacking=2)
    done = cli("run", TINY, "--storage", storage, timeout=200, **ray_cluster)
    assert done.returncode == 0, done.stderr
    assert losses_on(storage) == losses_on(tiny_storage)
    both = [
        StudyResults(Storage(place), Storage(place).study("tiny")).comparison_json for place in (storage, tiny_storage)
    ]
    assert without_seconds(both[0]) == without_seconds(both[1])
    assert len(results_on(storage)) > 50


def test_an_unreachable_cluster_is_one_clear_message(tmp_path, tiny_storage, cli, own_ray):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    done = cli("run", TINY, "--storage", storage, "--address", "127.0.0.1:1", timeout=200, **own_ray)
    assert done.returncode == 1
    assert "a Ray cluster must answer at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 8


def test_a_trial_that_dies_costs_the_time_since_it_was_started(tmp_path):
    """The callback as Tune calls it, without a cluster."""
    run = a_run("0" * 32, steps=3)
    task, events = Task((run.model_dump_json(),), str(tmp_path), {}), queue.Queue()
    error = tmp_path / "error.txt"
    error.write_text(
        "Failure # 1 (occurred at 2026-11-26_00-00-00)\n\x1b[36mThe\x1b[39m actor died unexpectedly.\n\tpid: 7\n"
    )
    trial = SimpleNamespace(config={"task": {"task_id": task.task_id}}, error_file=str(error))
    telling = _Telling(Lane(shape_of(task), 0, [task]), events)
    telling.on_trial_start(iteration=1, trials=[trial], trial=trial)
    telling._started[task.task_id] -= 50.0
    telling.on_trial_error(iteration=1, trials=[trial], trial=trial)
    death, ends = events.get_nowait(), Ends(None, [task])
    ends.died(death.task_id, death.error, death.seconds)
    (report,) = ends.settled()
    assert (report.run_id, report.status, report.is_made) == (run.run_id, "failed", False)
    assert report.cause == "the worker died: The actor died unexpectedly"
    assert 50.0 <= report.seconds < 100.0


def test_gpus_that_the_cluster_has_not_are_refused_and_not_waited_for(tmp_path, tiny_storage, ray_cluster, cli):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    done = cli("run", TINY, "--storage", storage, "--set", "resources.gpus_per_run=5", timeout=200, **ray_cluster)
    assert done.returncode == 2, done.stderr
    assert "this Ray cluster must have the 5 GPUs that resources.gpus_per_run asks for, but has 4" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_driver_and_its_own_cluster_lose_no_finished_run_and_repeat_none(tmp_path, tiny_storage, own_ray, cli):
    storage = copy_inputs(tiny_storage, tmp_path / "storage", lacking=3)
    driver = launch_driver(storage, **own_ray)
    try:
        see_that_it_is_for_this_machine_and_its_token_alone(driver, own_ray)
        before = kill_in_the_middle(driver, storage, new=6)
    finally:
        driver.kill()
        driver.wait()
    done = cli("run", TINY, "--storage", storage, timeout=200, **own_ray)
    assert done.returncode == 0, done.stderr
    left = list(Path(own_ray["TMPDIR"]).glob("raystudy-token-*"))
    assert len(left) == 1, "the token goes with its launch, but where that is killed"
    after = results_on(storage)
    assert {run: after[run] for run in before} == before
    assert losses_on(storage) == losses_on(tiny_storage)


def see_that_it_is_for_this_machine_and_its_token_alone(
    driver: "subprocess.Popen[bytes]", own_ray: dict[str, str]
) -> None:
    """Look at all sockets and tokens of a launch's own Ray, as soon as all its kinds of processes are there."""
    kinds = ("gcs_server", "raylet/raylet", "runtime_env_agent", "ray::ImplicitFunc")
    end, there = time.monotonic() + 90, {}
    while not all(any(kind in command for command in there.values()) for kind in kinds):
        assert driver.poll() is None, "the driver ended before it could be looked at"
        assert time.monotonic() < end, there
        time.sleep(0.2)
        there = descendants(driver.pid)
    found = listening(there)
    assert len({pid for _, _, pid in found}) >= 4, found
    elsewhere = {place for place in found if place[0] not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")}
    assert elsewhere == set(), [there[pid] for _, _, pid in elsewhere]
    pid = next(pid for pid, command in there.items() if "gcs_server" in command)
    head = dict(
        word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if word.startswith("RAY_")
    )
    token = Path(head["RAY_AUTH_TOKEN_PATH"])
    assert (head["RAY_AUTH_MODE"], len(token.read_text())) == ("token", 64)
    assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert token.is_relative_to(own_ray["TMPDIR"])


def test_python_finds_a_finished_study_done_and_returns_its_results(tmp_path, tiny_storage, ray_cluster):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    (storage / "runs").symlink_to(tiny_storage / "runs")
    code = (
        "import raystudy, sys\n"
        f"results = raystudy.run({str(TINY)!r}, storage={str(storage)!r})\n"
        "print(len(results.runs), sorted(results.runs.status.unique()), results.comparison_json['truth'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env={**os.environ, **ray_cluster}
    )
    assert done.stdout.split()[-2:] == ["['finished']", "truth"], done.stderr
