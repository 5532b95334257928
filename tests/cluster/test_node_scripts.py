"""The scripts that start nodes, with fakes named as such: no Slurm, no Ray; what they are told, and how they end."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.templates import CLUSTER
from tests.conftest import ROOT

# Each FAKE stands in for the program of its name and notes what it was told in $NOTES.
FAKES = {
    "scontrol": """#!/bin/bash
echo "scontrol $*" >> "$NOTES/calls"
if [[ $1 == show ]]; then printf '127.0.0.1\\nother\\n'; fi
""",
    "srun": """#!/bin/bash
echo "srun $*" >> "$NOTES/calls"
while [[ $1 == --* ]]; do shift; done
nodes=()
for node in 0 1; do SLURM_NODEID=$node RAYSTUDY_TEMP=$RAYSTUDY_TEMP-$node "$@" & nodes+=($!); done
trap 'kill -TERM "${nodes[@]}"' TERM
wait; wait
""",
    "ray": f"""#!{sys.executable} -IS
import json, os, signal, socket, sys, time
words, notes = sys.argv[1:], os.environ["NOTES"]
temp = os.environ.get("RAYSTUDY_TEMP")
mode = oct(os.stat(temp).st_mode & 0o777) if temp else ""
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
kind = "head" if "--head" in words else "worker"
with open(f"{{notes}}/{{kind}}", "w") as out:
    json.dump({{"words": words, "token": token, "mode": mode, "auth": os.environ["RAY_AUTH_MODE"]}}, out)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
if kind == "head":
    server = socket.create_server(("127.0.0.1", int(words[words.index("--port") + 1])))
while True:
    time.sleep(5)
""",
    "python": """#!/bin/bash
echo "python $* at ${RAY_ADDRESS:-}" >> "$NOTES/calls"
if [[ $1 == - ]]; then
    cat > "$NOTES/waited"
    until [[ -s $NOTES/head && -s $NOTES/worker ]]; do sleep 0.02; done
    exit
fi
stat -c %a "$RAY_AUTH_TOKEN_PATH" >> "$NOTES/calls"
if [[ -z ${ENDS:-} ]]; then
    trap 'exit 143' TERM
    touch "$NOTES/training"
    while true; do sleep 0.02; done
fi
exit "$ENDS"
""",
}


def free_job() -> int:
    """A job's number whose port (20000 + its last four digits) nothing holds."""
    for number in range(os.getpid() % 9000, 10000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20000 + number)):
                return 10000 + number
    raise AssertionError("every port is taken")


@pytest.fixture
def slurm(tmp_path):
    """Start the batch script under the fakes; gives the process and the folder of notes."""
    for folder in ("bin", "notes", "home"):
        (tmp_path / folder).mkdir()
    for name, text in FAKES.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "activate").write_text(f"PATH={tmp_path}/bin:$PATH\n")
    job = free_job()
    started: list[subprocess.Popen[str]] = []

    def start(**settings: str) -> tuple["subprocess.Popen[str]", Path]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "NOTES": str(tmp_path / "notes"),
            "ENVIRONMENT": str(tmp_path),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": "n[0-1]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "4",
            "STUDY": "a study; touch planted.yaml",
            "STORAGE": "/st $(touch planted)/raystudy",
            **settings,
        }
        script = ["bash", CLUSTER / "slurm" / "study.sbatch"]
        with (tmp_path / "notes" / "log").open("w") as out:
            started.append(subprocess.Popen(script, env=environment, stdout=out, stderr=out, text=True))
        return started[-1], tmp_path / "notes"

    yield start
    for process in started:
        process.kill()
        process.wait()


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def until(path: Path, batch: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, path
        assert batch.poll() is None, (path.parent / "log").read_text()
        time.sleep(0.02)


@pytest.mark.timeout(30)
def test_a_batch_script_starts_a_cluster_with_a_token_of_its_own_and_ends_as_the_study_does(slurm, tmp_path):
    batch, notes = slurm(ENDS="6")
    assert batch.wait(20) == 6, (notes / "log").read_text()
    head, worker = read(notes / "head"), read(notes / "worker")
    assert head["token"] == worker["token"]
    assert len(head["token"]) == 64
    assert (head["auth"], worker["auth"], head["mode"], worker["mode"]) == ("token", "token", "0o700", "0o700")
    port = next(word for place, word in enumerate(head["words"]) if head["words"][place - 1] == "--port")
    assert head["words"][:2] == ["start", "--head"]
    assert head["words"][head["words"].index("--dashboard-host") + 1] == "127.0.0.1"
    assert [words["words"][words["words"].index("--num-cpus") + 1] for words in (head, worker)] == ["3", "4"]
    assert worker["words"][1:3] == ["--address", f"127.0.0.1:{port}"]
    calls = (notes / "calls").read_text()
    line = "python -m raystudy run a study; touch planted.yaml --storage /st $(touch planted)/raystudy"
    assert f"{line} at 127.0.0.1:{port}" in calls
    assert "\n600\n" in calls, "the token's file is for this user alone"
    assert "requeue" not in calls.replace("--requeue", "")
    assert list((tmp_path / "home").iterdir()) == [], "the token is gone with the job"
    assert not any(Path("/tmp").glob(f"rs-{int(port) - 10000}-*")), "Ray's temporary folders are gone"
    assert not (ROOT / "planted").exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("sent", "again", "requeued"), [("USR1", "1", True), ("USR1", "0", False), ("TERM", "1", False)]
)
def test_near_the_walltime_the_driver_is_stopped_and_the_job_goes_on_in_a_new_one(
    slurm, sent, again, requeued, tmp_path
):
    batch, notes = slurm(REQUEUE=again)
    until(notes / "training", batch)
    batch.send_signal(getattr(signal, f"SIG{sent}"))
    assert batch.wait(20) == 143, (notes / "log").read_text()
    calls = (notes / "calls").read_text().splitlines()
    assert any(call.startswith("scontrol requeue ") for call in calls) == requeued
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "settings", "expected"),
    [
        (["head"], {}, "a token must be in the file RAY_AUTH_TOKEN_PATH or in RAY_AUTH_TOKEN, but neither holds one"),
        (["worker", "127.0.0.1"], {"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "neither holds one"),
        (["hed"], {}, "the first word must be head, worker or wait, but is 'hed'"),
        (
            ["worker", "127.0.0.1"],
            {"RAY_AUTH_TOKEN": "x", "RAYSTUDY_RAY_PORT": "1", "RAYSTUDY_WAIT_SECONDS": "0"},
            "the head must answer at 127.0.0.1:1 within 0 s, but does not",
        ),
        (
            ["head"],
            {"RAY_AUTH_TOKEN": "x", "RAYSTUDY_TEMP": "/proc/none"},
            "RAYSTUDY_TEMP must be a folder of this user alone, but /proc/none is not",
        ),
    ],
)
def test_a_node_that_cannot_start_says_why(words, settings, expected):
    command = ["bash", CLUSTER / "ray-node.sh", *words]
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], **settings}, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_script_that_starts_nodes_may_be_run():
    assert (CLUSTER / "ray-node.sh").stat().st_mode & stat.S_IXUSR
