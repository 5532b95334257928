"""Which GPUs there are, where torch need not be there to say."""

import subprocess
import sys

import pytest

from raystudy.cli.main import main
from raystudy.execute.gpus import visible_gpus
from tests.command.studies import external_study
from tests.conftest import ROOT

LISTING = """#!/bin/sh
echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a)'
echo '  MIG 1g.10gb Device 0: (UUID: MIG-b)'
echo 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-c)'
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine whose nvidia-smi lists two GPUs, nothing being said of them otherwise."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(LISTING)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


@pytest.mark.parametrize(
    ("told", "found"), [("4,5", ["4", "5"]), ("", []), ("1,-1,0", ["1"]), ("NoDevFiles", []), (None, ["0", "1"])]
)
@pytest.mark.usefixtures("driver")
def test_without_torch_the_gpus_are_those_told_or_those_that_the_driver_lists(monkeypatch, told, found):
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert visible_gpus(by_torch=False) == found


def test_without_torch_and_without_a_driver_there_are_none(driver):
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus(by_torch=False) == []
    driver.unlink()
    assert visible_gpus(by_torch=False) == []


_LAUNCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from raystudy.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.timeout(120)
def test_a_study_of_commands_on_gpus_is_run_where_there_is_no_torch(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    study = external_study(tmp_path)
    options = ["--storage", str(tmp_path / "storage"), "--local", "--max-runs", "2"]
    command = ["run", str(study), *options, "--set"]
    of_two = [sys.executable, "-c", _LAUNCH, *command, "resources.gpus_per_run=2"]
    done = subprocess.run(of_two, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 8, done.stderr
    assert len(list((tmp_path / "storage").glob("runs/*/result.json"))) == 2
    assert main([*command, "resources.gpus_per_run=3"]) != 0
    assert "must have the 3 GPUs that resources.gpus_per_run asks for, but has 2" in capsys.readouterr().err
