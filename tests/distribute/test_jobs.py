"""A study as a Ray job: submitted with Ray's own command, it leaves its records on a storage that all nodes see."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from raystudy.distribute.shared_storage import NotSharedError
from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.specs.study import Resources
from tests.cluster.templates import STOPPING
from tests.conftest import ROOT
from tests.execute.test_local import copy_inputs
from tests.ray_cluster import RAY

STUDY = "search_spaces/tiny-features.yaml"
Completed = subprocess.CompletedProcess[str]
IN_A_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


def submit(environment: dict[str, str], *arguments: object, entrypoint: Sequence[object] = ()) -> Completed:
    """`ray job submit` of the repository; the command follows the log and ends as the job does."""
    command = [RAY, "job", "submit", "--address", environment["RAY_API_SERVER_ADDRESS"], "--working-dir", "."]
    command += ["--runtime-env-json", json.dumps({"env_vars": STOPPING}), "--"]
    command += map(str, entrypoint or ["python", "-m", "raystudy", *arguments])
    for _ in range(3):
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=110
        )
        if "No available agent" not in done.stderr:  # of a head that has just started
            break
    return done


def ignored() -> set[str]:
    """The folders that .gitignore names."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    return {line.strip("/") for line in lines if line.endswith("/") and "*" not in line}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_submitted_study_leaves_its_records_on_the_storage_and_a_second_submit_has_nothing_to_do(
    tmp_path, tiny_storage, ray_cluster
):
    """The line that cluster/README.md begins with, on shards that are built already, as are most runs."""
    study, storage = "search_spaces/tiny.yaml", copy_inputs(tiny_storage, tmp_path / "storage", lacking=4)
    first = submit(ray_cluster, "run", study, "--storage", storage)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "succeeded" in first.stdout + first.stderr
    records = {path: path.read_bytes() for path in storage.glob("runs/*/result.json")}
    assert len(records) == len(list(tiny_storage.glob("runs/*/result.json"))) > 50
    again = submit(ray_cluster, "run", study, "--storage", storage)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"all {len(records)} wanted runs are done; nothing to do" in again.stdout
    assert {path: path.read_bytes() for path in storage.glob("runs/*/result.json")} == records


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_job_that_leaves_wanted_runs_ends_as_failed_and_says_how_many(tmp_path, ray_cluster):
    done = submit(ray_cluster, "run", STUDY, "--storage", tmp_path / "storage", "--max-runs", "5")
    assert done.returncode == 1
    assert "wanted runs of 'tiny-features' are left" in done.stdout
    assert "' failed" in done.stdout, done.stdout
    assert len(list(tmp_path.glob("storage/runs/*/result.json"))) == 5


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_what_a_job_uploads_is_small_and_holds_nothing_that_git_ignores(tmp_path, ray_cluster):
    listed = submit(ray_cluster, entrypoint=["find", ".", "-type", "f", "-fprintf", tmp_path / "list", "%s %P\\n"])
    assert listed.returncode == 0, listed.stdout + listed.stderr
    rows = [line.split(maxsplit=1) for line in (tmp_path / "list").read_text().splitlines()]
    names = {name for _, name in rows}
    assert "raystudy/__main__.py" in names
    assert sum(int(size) for size, _ in rows) < 5_000_000
    assert not {part for name in names for part in name.split("/")} & ignored()


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_driver_is_on_the_head_off_it_or_where_there_is_room_as_it_is_asked_for(tmp_path, ray_cluster):
    """Each of the two nodes has one CPU and a folder of its own; that of the head is called h."""
    command = [sys.executable, "-m", "tests.distribute.driver_places", str(tmp_path)]
    environment = {**os.environ, **ray_cluster}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    nodes = {path.name: Path(path.read_text().strip()).name for path in tmp_path.iterdir()}
    assert nodes == {"head": "h", "default": "h", "any": "s", "workers": "s"}


@pytest.mark.parametrize("where", [[], ["--storage", "relative"]])
def test_in_a_ray_job_a_storage_that_goes_with_the_job_is_refused_with_the_way_out(tmp_path, cli, where):
    done = cli("run", ROOT / STUDY, *where, "--workers", 0, "--local", cwd=tmp_path, PYTHONPATH=str(ROOT), **IN_A_JOB)
    assert done.returncode == 3
    assert "--storage /ABSOLUTE/PATH or --storage s3://BUCKET/PREFIX" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_in_a_ray_job_a_relative_storage_of_the_study_file_is_refused_and_an_absolute_one_is_not(tmp_path, cli):
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    study = tmp_path / STUDY
    text = study.read_text()
    study.write_text(f"{text}\nstorage: beside\n")
    refused = cli("run", study, "--local", **IN_A_JOB)
    assert refused.returncode == 3
    study.write_text(f"{text}\nstorage: {tmp_path / 'beside'}\n")
    assert cli("run", study, "--local", "--workers", 0, **IN_A_JOB).returncode == 0


def test_on_several_nodes_a_storage_that_is_not_shared_is_refused_and_ray_is_left(monkeypatch):
    class Cluster:
        left = 0

        def __enter__(self) -> "Cluster":
            return self

        def __exit__(self, *error: object) -> None:
            Cluster.left += 1

        def nodes(self) -> list[dict[str, object]]:
            return [{"NodeID": str(n), "Alive": n < 2, "Resources": {"CPU": 2.0}} for n in range(3)]

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 4.0}

    monkeypatch.setattr("raystudy.distribute.tune_executor.connected", lambda _: Cluster())
    with (
        pytest.raises(NotSharedError, match=r"2 nodes. Name a folder .*, or a bucket \(s3://, gs://\): --storage"),
        TuneExecutor(None, [Resources()], is_storage_shared=False),
    ):
        pass
    assert Cluster.left == 1
    with TuneExecutor(None, [Resources()], is_storage_shared=True):
        assert Cluster.left == 1
