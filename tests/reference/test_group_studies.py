"""A study whose truth two DeepSpeed workers train, end to end: undisturbed, killed in the middle, by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.execute.groups import ENTRY
from tests.conftest import ROOT, run_cli
from tests.execute.test_local import copy_inputs, results_on
from tests.faults.trials import kill, wait_until_gone, workers_of

pytestmark = pytest.mark.timeout(600)

STUDY = f"""
format: raystudy-study/1
name: groups
catalogues: [{ROOT}/search_spaces/recipes/embedded.yaml]
recipes: [balanced, noisy]
validation:
  prose: {{source: {{kind: embedded, domains: [prose]}}, max_documents: 6, max_document_bytes: 600}}
models:
  proxy: {{kind: decoder, layers: 1, width: 16, heads: 1, context: 32, training: {{steps: 10}}}}
  target:
    kind: decoder
    layers: 1
    width: 32
    heads: 2
    context: 32
    engine: {{kind: deepspeed, workers: 2, zero_stage: 2, checkpoint_steps: 10, checkpoint_minutes: null}}
training: {{steps: 60, batch_tokens: 256, schedule: {{kind: wsd, warmup: 0.1, decay: 0.2}}}}
protocols:
  truth: {{kind: tuned, model: target, space: {{lr: {{grid: [0.003, 0.03], extend: 0}}}}, seeds: [0]}}
  fixed: {{kind: reduced-lr, model: proxy, lr: 0.001, seeds: [0]}}
truth: truth
comparison: {{resamples: 100}}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "groups.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed") / "storage"
    done = run_cli("run", study, "--storage", storage, "--local", timeout=400)
    assert done.returncode == 0, done.stderr
    assert "6 runs made" in done.stdout
    return storage


def losses(storage: Path) -> dict[str, list[float]]:
    """Final loss and training curve of every run."""
    runs, found = Storage(storage).runs, {}
    for run_id in results_on(storage):
        (row,) = (row for row in runs.read(run_id).result["metrics"] if row["name"] == "loss")
        found[run_id] = [row["value"], *(float(row["loss"]) for row in runs.read_curve(run_id))]
    return found


def group_runs(storage: Path) -> list[str]:
    """The runs that a group has finished."""
    records = {run_id: Storage(storage).runs.read(run_id) for run_id in results_on(storage)}
    return [run_id for run_id, record in records.items() if record.result["spec"].get("engine") == "deepspeed"]


def test_every_verb_works_on_such_a_study_and_running_it_again_does_nothing(study, undisturbed):
    assert len(group_runs(undisturbed)) == 4
    for verb in ("check", "plan", "compare", "report"):
        options = [] if verb == "check" else ["--storage", undisturbed]
        done = run_cli(verb, study, *options)
        assert done.returncode == 0, (verb, done.stderr)
    before = results_on(undisturbed)
    again = run_cli("run", study, "--storage", undisturbed, "--local")
    assert "all 6 wanted runs are done; nothing to do" in again.stdout
    assert results_on(undisturbed) == before
    assert not list(undisturbed.glob("runs/*/checkpoints/*.safetensors")), "a finished run keeps no checkpoint"
    record = Storage(undisturbed).runs.read(group_runs(undisturbed)[0]).result["provenance"]
    assert record["engine"]["workers"] == 2
    assert record["packages"]["deepspeed"]


def ranks_of(driver: int) -> list[int]:
    """The ranks that a driver's workers have started."""
    below = [child for worker in workers_of(driver) for child in workers_of(worker)]
    return [pid for pid in below if "raystudy.reference" in command_of(pid)]


def command_of(pid: int) -> str:
    """A process's command line; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def wait_for_checkpoint(storage: Path, driver: "subprocess.Popen[bytes]", after: int) -> None:
    """Until a run is under way that has a checkpoint, and so many have finished."""
    deadline = time.monotonic() + 150
    while True:
        done = set(results_on(storage))
        begun = {path.parent.parent.name for path in storage.glob("runs/*/checkpoints/step-*.safetensors")}
        if len(done) >= after and begun - done:
            return
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_driver_and_a_worker_killed_in_the_middle_cost_no_finished_run_and_no_step(study, undisturbed, tmp_path):
    storage = copy_inputs(undisturbed, tmp_path / "storage")
    words = [sys.executable, "-m", "raystudy", "run", str(study), "--storage", str(storage), "--local"]
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(storage, driver, after=1)
    ranks = ranks_of(driver.pid)
    assert len(ranks) == 2
    kill(ranks[0], signal.SIGSTOP)  # one that can do nothing itself must go too
    kill(ranks[1])
    driver.kill()
    driver.wait()
    assert wait_until_gone(ranks), "a rank lived on after its driver"
    before = results_on(storage)
    done = run_cli("run", study, "--storage", storage, "--local", timeout=400)
    assert done.returncode == 0, done.stderr
    after = results_on(storage)
    assert {run: after[run] for run in before} == before, "a finished run was made again"
    expected = losses(undisturbed)
    assert losses(storage) == {run_id: pytest.approx(values, rel=1e-6) for run_id, values in expected.items()}
    resumed = [Storage(storage).runs.read(run).result["provenance"]["resumed_from_step"] for run in group_runs(storage)]
    assert any(step > 0 for step in resumed), "no run went on from a checkpoint"


def test_torchrun_makes_the_missing_runs_of_one_model_and_its_restart_takes_half_of_what_ran_out_of_memory(
    study, undisturbed, tmp_path
):
    storage = copy_inputs(undisturbed, tmp_path / "storage")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    words += ["--max-restarts", "1", "-m", "tests.reference.planted_rank", str(study), "--storage", str(storage)]
    words += ["--model", "target", "--lr", "0.003"]
    (tmp_path / "met").mkdir()
    plants = json.dumps([{"seed": 0, "rank": 1, "step": 15, "what": "memory"}])
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PLANTS": plants}
    environment |= {"PLANTS_MET": str(tmp_path / "met")}
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "groups: 2 runs made, 0 were done, 2 wanted" in done.stdout
    assert "worker 1 failed: MemoryError; started again it goes on with micro-batches of 64 tokens" in done.stderr
    expected, made = losses(undisturbed), losses(storage)
    assert len(made) == 2
    # Other micro-batches round otherwise, and in one of these recipes that grows after some 40 steps: one process and
    # two workers end there 0.02 apart too. So what is compared is the first half of the training.
    assert {run_id: values[1:31] for run_id, values in made.items()} == {
        run_id: pytest.approx(expected[run_id][1:31], rel=1e-5) for run_id in made
    }
    noted = [Storage(storage).runs.read(run).result["provenance"].get("notes", []) for run in made]
    halved = "out of memory with micro-batches of 128 tokens; begun again with micro-batches of 64"
    assert sorted(noted) == [[], [halved]]


def test_ranks_are_refused_with_the_way_out_when_what_they_are_asked_for_does_not_fit(study, undisturbed, tmp_path):
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "lo"}
    words = [*ENTRY, str(study), "--storage", str(tmp_path), "--model", "target"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "models.target.engine.workers" in done.stderr
    assert "add --set models.target.engine.workers=1" in done.stderr
    assert "Traceback" not in done.stderr
    wrong = subprocess.run([*words[:-1], "proxy"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--model must name a model of engine deepspeed (target), but got 'proxy'" in wrong.stderr
    storage = copy_inputs(undisturbed, tmp_path / "storage")
    words = [*ENTRY, str(study), "--storage", str(storage), "--model", "target", "--recipe", "nosuch"]
    words += ["--set", "models.target.engine.workers=1"]
    none = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert none.returncode == 2
    assert "must be of model target, recipe nosuch, but none is" in none.stderr
