"""A trainer's processes: what they are given, their log, their time, and that they end with whoever started them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import StoppedError
from raystudy.execute.local import LocalExecutor
from raystudy.execute.work import do_task
from raystudy.train import stop_request
from tests.command.runs import a_run, a_task, commission, make, out_of
from tests.command.studies import STUB, external_study, read_study, write_study
from tests.conftest import ROOT


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def hanging(root: Path) -> list[int]:
    """The processes of a stub that hangs, and of the child it started in a session of its own."""
    places = list(root.glob("runs/*/work/out/pids"))
    return [int(number) for place in places for number in place.read_text().split()]


def test_a_trainer_that_goes_on_too_long_is_ended_with_all_that_it_started(tmp_path):
    report = make(tmp_path, "hangs", timeout_minutes=0.02)
    assert "must end within 0.02 minutes (engine.timeout_minutes), but went on" in report.cause
    assert "stub: attempt 1" in report.cause
    assert len(hanging(tmp_path)) == 2
    assert not any(is_running(process) for process in hanging(tmp_path))
    assert report.seconds >= 1.2


def test_a_trainer_ends_when_its_worker_is_killed_and_the_next_attempt_waits_for_that(tmp_path):
    with LocalExecutor(1) as executor:
        reports = executor.run([a_task(tmp_path, commission("hangs", grace_seconds=1))])
        starting = iter(reports)
        subprocess.Popen([sys.executable, "-c", _KILLER, str(tmp_path), str(os.getpid())]).wait()
        (failed,) = starting
        assert "killed by signal 9" in failed.cause
        (again,) = executor.run([a_task(tmp_path, commission())])
    assert again.status == "finished", again.cause
    assert not any(is_running(process) for process in hanging(tmp_path))


# Started before the executor, since that blocks: kills the one worker of `parent` once the stub hangs.
_KILLER = """
import os, pathlib, signal, subprocess, sys, threading, time
folder, parent = pathlib.Path(sys.argv[1]), sys.argv[2]
if os.fork():
    os._exit(0)
deadline = time.monotonic() + 20
while time.monotonic() < deadline and not list(folder.glob("runs/*/work/out/pids")):
    time.sleep(0.02)
for place in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        owner = (place / "stat").read_text().rpartition(")")[2].split()[1]
        if owner == parent and b"raystudy.execute.worker" in (place / "cmdline").read_bytes():
            children = (place / "task" / place.name / "children").read_text().split()
            for process in [*children, place.name]:  # in this order, as a worker of Ray goes
                os.kill(int(process), signal.SIGKILL)
    except OSError:
        pass
"""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trainer_ends_when_the_driver_is_interrupted(tmp_path, number, workers):
    study, storage = external_study(tmp_path, "hangs"), tmp_path / "storage"
    command = ["run", str(study), "--storage", str(storage), "--local", "--workers", str(workers)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "raystudy", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: len(hanging(storage)) == 2)
        driver.send_signal(number)
        _, told = driver.communicate(timeout=20)
    finally:
        driver.kill()
    assert "Traceback" not in told
    wait_for(lambda: not any(is_running(process) for process in hanging(storage)), 5)


def test_a_trainer_that_fails_twice_is_tried_three_times_with_the_same_out_and_one_log(tmp_path, cli):
    path, storage = external_study(tmp_path, "fails-twice"), tmp_path / "storage"
    study = read_study(path)
    study["recipes"] = study["recipes"][:2]
    study["protocols"]["truth"] |= {"space": {"lr": {"grid": [0.01], "extend": 0}}, "seeds": [0]}
    study["protocols"]["standard"] |= {"lr": 0.01, "seeds": [0]}
    write_study(path, study)
    done = cli("run", path, "--storage", storage, "--local")
    assert done.returncode == 0, done.stderr
    runs = Storage(storage).runs
    assert len(runs.started()) == 4
    for run_id in runs.started():
        log = (runs.folder(run_id) / "work" / "log.txt").read_text()
        assert [f"stub: attempt {number}" in log for number in (1, 2, 3)] == [True] * 3
        assert ["ended with 1" in attempt["cause"] for attempt in runs.read_attempts(run_id)] == [True, True]


def test_a_result_that_was_whole_when_its_worker_died_counts_and_nothing_is_started(tmp_path):
    report = make(tmp_path)
    (tmp_path / "runs" / report.run_id / "result.json").unlink()
    again = make(tmp_path, "exits-3")
    assert (again.status, again.is_made) == ("finished", True), again.cause
    assert len((out_of(tmp_path) / "attempts").read_text().splitlines()) == 1


def test_a_trainer_is_given_what_its_arguments_and_the_study_say(tmp_path):
    code = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1] + '/given', 'w'))"
    names = ["out", "lr", "seed", "steps", "tokens", "batch_tokens", "context", "data", "recipe", "model", "run_id"]
    command = (sys.executable, "-c", code, *[f"{{{name}}}" for name in names], "{{literal}} $HOME *", "{validation}")
    (report,) = do_task(a_task(tmp_path, commission(command=command)))
    assert "left none" in report.cause
    given = json.loads((out_of(tmp_path) / "given").read_text())
    wanted = ["0.01", "0", "4", "128", "32", "8", "/data/clean", "clean", "small", report.run_id]
    assert given == [*wanted, "{literal} $HOME *", ","]
    make(tmp_path, environment={"STUB": "yes"})
    _, variable, threads, folder = (out_of(tmp_path) / "attempts").read_text().split()
    assert (variable, threads, folder) == ("yes", "1", str(STUB.parent))


def test_a_trainer_sees_the_gpus_of_its_place_and_no_others(tmp_path):
    code = "import os, sys; open(sys.argv[1] + '/gpus', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    task = a_task(tmp_path, commission(command=(sys.executable, "-c", code, "{out}")))
    with LocalExecutor(1, ["4", "5"]) as executor:
        list(executor.run([replace(task, gpus=2)]))
    assert (out_of(tmp_path) / "gpus").read_text() == "4,5"


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (
            {"command": ("no-such-program",)},
            "must be a program that can be started, but: No such file or directory: no-",
        ),
        ({"folder": "/no/such/folder"}, "engine.folder must be a folder on every machine that runs"),
        ({"command": None, "callable": "no_such_module:train"}, "No module named 'no_such_module'"),
        ({"command": None, "callable": "stub_trainer:no_such_function"}, "has no attribute 'no_such_function'"),
    ],
)
def test_what_cannot_be_started_says_so(tmp_path, engine, words):
    report = make(tmp_path, **engine)
    assert report.status == "failed"
    assert words in report.cause


def test_a_callable_is_called_in_a_process_of_its_own_and_its_result_written_for_it(tmp_path):
    report = make(tmp_path, command=None, callable="stub_trainer:call")
    assert report.status == "finished", report.cause
    record = Storage(tmp_path).runs.read(report.run_id, run=a_run())
    assert record.result["provenance"]["engine"]["callable"] == "stub_trainer:call"
    assert "raystudy.execute.called" in (out_of(tmp_path).parent / "log.txt").read_text()


def test_a_trainer_that_is_asked_to_stop_gets_its_grace_and_that_is_no_failure(tmp_path):
    timer = threading.Thread(target=_ask_once_it_hangs, args=(tmp_path,))
    timer.start()
    try:
        with pytest.raises(StoppedError, match="planted"):
            do_task(a_task(tmp_path, commission("hangs", grace_seconds=1)))
    finally:
        timer.join()
        stop_request.withdraw()
    assert len(hanging(tmp_path)) == 2
    assert not any(is_running(process) for process in hanging(tmp_path))
    assert make(tmp_path).status == "finished", "the next attempt finds its folder free"


def _ask_once_it_hangs(root: Path) -> None:
    wait_for(lambda: len(hanging(root)) == 2)
    stop_request.request("planted")
