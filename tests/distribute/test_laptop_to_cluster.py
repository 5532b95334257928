"""The walk-through from a laptop to a cluster, on the session's two nodes, and what its page says beside it."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raystudy.artifacts.storage import open_storage
from raystudy.execute.driver_lock import find_holder, hold_study
from raystudy.study.results import StudyResults
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "laptop-to-cluster.md").read_text(encoding="utf-8")
STUDY = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL).group(1)
BIN = Path(sys.executable).parent


def laptop(folder: Path, cluster: dict[str, str], **more: str) -> dict[str, str]:
    """The environment of somebody's shell in a folder of their own, raystudy installed."""
    own = {"RAYSTUDY_CACHE": str(folder / "cache"), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in cluster.items() if name != "RAY_ADDRESS"}
    return {**os.environ, **kept, **own, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def shell(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=150
    )


def results_on(folder: Path) -> StudyResults:
    storage = open_storage(folder)
    return StudyResults(storage, storage.study("my-cluster-study"))


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_walk_through_works_exactly_as_it_stands(tmp_path, ray_cluster):
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted-secret\n")
    storage = tmp_path / "shared"
    environment = laptop(tmp_path, ray_cluster, RAYSTUDY_STORAGE=str(storage), AWS_SECRET_ACCESS_KEY="planted-secret")
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    settings, rest = blocks[0], "".join(blocks[1:])
    assert all(line.startswith("export ") for line in settings.splitlines())
    done = shell(f"set -e\n{rest}", tmp_path, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    told = ("0 problems", " files, ", "ray job submit --address", "is read and written there", "no driver is running")
    for said in told:
        assert said in done.stdout, done.stdout
    assert len(re.findall(r"node \S+ \(\w{8}\) storage: ", done.stdout)) == 2
    results, pulled = (results_on(folder) for folder in (storage, tmp_path / "pulled"))
    assert set(results.runs["status"]) == {"finished"}
    assert pulled.runs.equals(results.runs)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert not list((tmp_path / "pulled").rglob("*.safetensors"))
    assert "planted-secret" not in done.stdout + done.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    logs = [path for path in Path(ray_cluster["RAY_TMPDIR"]).glob("?/session_2*/logs/**/*") if path.is_file()]
    assert not [path for path in (*left, *logs) if b"planted-secret" in path.read_bytes()]
    assert any(path.name.startswith("job-driver-raystudy-my-cluster-study-") for path in logs)
    assert {storage, tmp_path / "pulled", tmp_path / "cache"} <= {parent for path in left for parent in path.parents}
    assert not list(storage.glob(".raystudy-doctor-*"))


@pytest.mark.ray
@pytest.mark.timeout(200)
def test_a_follower_that_is_interrupted_leaves_the_job_which_stop_then_ends(tmp_path, ray_cluster):
    """Its plain line is what is submitted, so that this proves the line too; it waits for a study held elsewhere."""
    (tmp_path / "study.yaml").write_text(STUDY)
    storage = open_storage(tmp_path / "shared")
    environment = laptop(tmp_path, ray_cluster)
    shown = shell(f"raystudy submit study.yaml --storage {storage.root} --dry-run", tmp_path, environment)
    line = re.search(r"^the same by Ray's own command: (.*)$", shown.stdout, re.MULTILINE).group(1)
    job_id = shlex.split(line)[shlex.split(line).index("--submission-id") + 1]
    with hold_study(storage.study("my-cluster-study").path, wait=False, say=print):
        sent = shell(line.replace(" -- ", " --no-wait -- ", 1), tmp_path, environment)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        command = [BIN / "raystudy", "submit", "study.yaml", "--storage", str(storage.root), "--follow"]
        follower = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said = ""
        while "waiting: " not in said and (new := follower.stdout.readline()):
            said += new
        follower.send_signal(signal.SIGINT)
        rest, errors = follower.communicate(timeout=30)
        assert follower.returncode == 130, said + rest + errors
        assert f"{job_id} is running already; attached to it" in said
        assert f"{job_id} goes on" in errors
        assert "Traceback" not in errors
        listed = shell("raystudy jobs", tmp_path, environment)
        assert re.search(rf"{job_id} +my-cluster-study +RUNNING .* 1$", listed.stdout, re.MULTILINE), listed.stdout
        began = time.monotonic()
        stopped = shell("raystudy stop study.yaml", tmp_path, environment)
        assert f"{job_id} STOPPED" in stopped.stdout, stopped.stdout + stopped.stderr
        assert time.monotonic() - began < 40
        assert "was started without" not in stopped.stdout
    assert "still named as its driver" in stopped.stdout  # this test's own
    assert find_holder(storage.study("my-cluster-study").path) is None
    log = shell(f"raystudy logs {job_id}", tmp_path, environment).stdout
    assert "stopped by SIGINT" in log


@pytest.mark.ray
@pytest.mark.timeout(200)
def test_a_storage_that_goes_with_the_job_is_refused_before_anything_is_sent_and_a_wrong_token_is_told(
    tmp_path, ray_cluster
):
    (tmp_path / "study.yaml").write_text(STUDY)
    environment = laptop(tmp_path, ray_cluster)
    refused = shell("raystudy submit study.yaml", tmp_path, environment)
    assert refused.returncode == 3
    assert "--storage /ABSOLUTE/PATH or --storage s3://BUCKET/PREFIX" in refused.stderr
    with (tmp_path / "large.bin").open("wb") as large:
        large.truncate(101 * 1024 * 1024)
    too_large = shell("raystudy submit study.yaml --storage /s --include large.bin", tmp_path, environment)
    assert too_large.returncode == 2
    assert "absolute paths in the study" in too_large.stderr
    assert "large.bin (105,906,176 bytes)" in too_large.stderr
    assert not (tmp_path / "cache").exists()
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    gcs = ray_cluster["RAY_ADDRESS"]
    script = f"""RAY_AUTH_MODE=disabled raystudy jobs
    RAY_AUTH_TOKEN_PATH={wrong} raystudy jobs
    raystudy jobs --address {gcs}"""
    said = shell(script, tmp_path, environment)
    assert "HTTP 401). Set RAY_AUTH_MODE=token" in said.stderr
    assert "HTTP 403" in said.stderr
    assert "does not speak HTTP" in said.stderr
    assert "Traceback" not in said.stderr
    assert said.stderr.count("raystudy: ") == 3
