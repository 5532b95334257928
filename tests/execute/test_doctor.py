"""`raystudy doctor`: each thing it looks at, healthy and not."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage, open_storage
from raystudy.cli.main import main
from raystudy.execute import doctor, packages
from raystudy.execute.doctor import Needs, examine, needs_of
from raystudy.execute.packages import Package, imported
from raystudy.reference.builds import STALE_MINUTES, VARIABLE
from raystudy.specs.load import load_study
from tests.command.studies import external_study
from tests.conftest import ROOT, TINY
from tests.reference.test_builds import a_lock

TORCH = Package("torch", "2.13.0", about={"gpus": [], "built_for_cuda": "", "gloo": True, "nccl": False})
DEEPSPEED = Package("deepspeed", "0.19.8")
BY_DEEPSPEED = "models.target.engine={kind: deepspeed, workers: 2}"


@pytest.fixture(autouse=True)
def found(monkeypatch, tmp_path):
    """What the imports of torch and DeepSpeed find, to be changed; builds lie in a folder of the test's own."""
    packages_found = {"torch": TORCH, "deepspeed": DEEPSPEED}
    monkeypatch.setattr(doctor, "imported", lambda name: packages_found[name])
    monkeypatch.setenv(VARIABLE, str(tmp_path / "builds"))
    monkeypatch.delenv("MASTER_PORT", raising=False)
    return packages_found


def severities(findings):
    return {finding.name: finding.severity for finding in findings if finding.severity != "ok"}


@pytest.mark.timeout(200)
def test_on_a_healthy_machine_nothing_is_a_problem(cli, tmp_path):
    storage, path = tmp_path / "storage", tmp_path / "doctor.json"
    done = cli("doctor", TINY, "--set", BY_DEEPSPEED, "--storage", storage, "--json", path, timeout=190)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(path.read_text())
    assert told["problems"] == 0
    by_name = {finding["name"]: finding for finding in told["findings"]}
    assert {"python", "torch", "deepspeed", "ray", "backend", "port", "build folder", "storage"} <= set(by_name)
    assert "gloo" in by_name["backend"]["found"]
    assert sys.executable in by_name["python"]["found"]
    assert "ok       torch: " in done.stdout
    assert not storage.exists()  # it only looks
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_compiler_it_warns_and_says_what_one_would_be_needed_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    findings = examine(Needs())
    assert severities(findings) == {"C++ compiler": "warning", "ninja": "warning"}
    (line,) = (str(finding) for finding in findings if finding.name == "C++ compiler")
    assert "DeepSpeed builds an operation" in line
    assert "Install g++" in line


def test_a_compiler_that_cxx_names_and_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    (finding,) = (f for f in examine(Needs()) if f.name == "C++ compiler")
    assert finding.severity == "warning"
    assert "/nowhere/c++" in finding.found


def test_a_stale_lock_is_a_problem_with_the_command_that_removes_it_and_a_live_one_a_warning(tmp_path):
    lock = a_lock(tmp_path / "builds")
    assert severities(examine(Needs())) == {"build lock": "warning"}
    a_lock(tmp_path / "builds", minutes_old=2 * STALE_MINUTES)
    (finding,) = (f for f in examine(Needs()) if f.name == "build lock")
    assert finding.severity == "problem"
    assert f"rm {lock}" in finding.way_out
    assert lock.exists()  # it only looks
    assert severities(examine(Needs(deepspeed=False))) == {"build lock": "warning"}


def test_a_build_folder_that_cannot_be_made_or_lies_in_a_checkout_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "builds"))
    (finding,) = (f for f in examine(Needs()) if f.name == "build folder")
    assert finding.severity == "problem"
    assert VARIABLE in finding.way_out
    monkeypatch.setenv(VARIABLE, str(ROOT / "builds"))
    assert severities(examine(Needs())) == {"build folder": "warning"}
    assert not (ROOT / "builds").exists()


def test_a_storage_that_cannot_be_written_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    findings = examine(Needs(), Storage(tmp_path / "file" / "storage"))
    assert severities(findings) == {"storage": "problem"}


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_LEAST_FREE_DISK", 2**62)
    assert severities(examine(Needs(), Storage(tmp_path))) == {"disk": "warning"}


def test_of_a_remote_storage_the_disk_counts_where_this_machine_keeps_what_it_fetches(monkeypatch, tmp_path):
    remote = open_storage("memory://doctor/storage")
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    assert severities(examine(Needs(), remote)) == {}
    monkeypatch.setattr(doctor, "_LEAST_FREE_DISK", 2**62)
    (disk,) = (finding for finding in examine(Needs(), remote) if finding.name == "disk")
    assert f"free at {tmp_path / 'cache'}" in disk.found
    assert "RAYSTUDY_CACHE" in disk.way_out
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "file" / "cache"))
    assert severities(examine(Needs(), remote)) == {"cache": "problem"}


def test_a_port_in_use_is_a_problem(monkeypatch):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        monkeypatch.setenv("MASTER_PORT", str(holder.getsockname()[1]))
        (finding,) = (f for f in examine(Needs()) if f.severity != "ok")
    assert (finding.name, finding.severity) == ("port", "problem")
    assert "MASTER_PORT" in finding.way_out


def test_more_gpus_or_cpus_than_there_are_are_told():
    assert severities(examine(Needs(gpus=2)))["GPUs"] == "problem"
    assert severities(examine(Needs(gpus=2)))["backend"] == "problem"  # nccl, which this torch has not
    assert severities(examine(Needs(cpus=10**6))) == {"machine": "warning"}


def test_a_missing_package_is_a_problem_only_where_it_is_needed(found, capsys):
    found["deepspeed"] = Package("deepspeed")
    assert severities(examine(Needs())) == {"deepspeed": "problem"}
    (finding,) = (f for f in examine(Needs()) if f.name == "deepspeed")
    assert "raystudy[deepspeed]" in finding.way_out
    assert main(["doctor", str(TINY), "--storage", "/tmp"]) == 0
    assert "warning  deepspeed" in capsys.readouterr().out
    assert main(["doctor", str(TINY), "--storage", "/tmp", "--set", BY_DEEPSPEED]) == 1
    assert "problem  deepspeed" in capsys.readouterr().out


def test_a_study_says_what_it_needs():
    assert needs_of(load_study(TINY).spec) == Needs(torch=True, deepspeed=False, gpus=0)
    engine = "models.target.engine={kind: deepspeed, workers: 4, gpus_per_worker: 1, cpus_per_worker: 2}"
    assert needs_of(load_study(TINY, [engine]).spec) == Needs(torch=True, deepspeed=True, gpus=4, cpus=8.0)
    features = load_study(ROOT / "search_spaces" / "tiny-features.yaml").spec
    assert needs_of(features) == Needs(torch=False, deepspeed=False)


def test_a_study_of_commands_needs_no_torch_but_their_gpus_and_programs(found, tmp_path, monkeypatch, capsys):
    for name in found:
        found[name] = Package(name)
    study = str(external_study(tmp_path))
    asked = ["doctor", study, "--storage", str(tmp_path / "storage")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main([*asked, "--set", "resources.gpus_per_run=2"]) == 0
    assert "warning  torch" in capsys.readouterr().out
    assert main([*asked, "--set", "resources.gpus_per_run=8"]) == 1
    assert "problem  GPUs: 2 (0), but 8 are needed" in capsys.readouterr().out
    needs = needs_of(load_study(Path(study), ["resources.gpus_per_run=8"]).spec)
    assert (needs.torch, needs.gpus, needs.command_gpus, len(needs.commands)) == (False, 0, 8, 1)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({}, ""),
        ({"command": ["sh", "{spec}"]}, ""),
        ({"command": ["./trainer", "{spec}"]}, "a program that can be started, but '/"),
        ({"command": ["no-such-program"]}, "a program that can be started, but 'no-such-program' is none"),
        ({"folder": "gone"}, "must be a folder on every machine"),
        ({"command": None, "callable": "stub_trainer:call"}, ""),
        ({"command": None, "callable": "no_such.trainer:call"}, "no module 'no_such' in"),
    ],
)
def test_the_folder_and_the_program_of_a_trainer_are_looked_for(tmp_path, engine, words):
    needs = needs_of(load_study(external_study(tmp_path, **engine)).spec)
    (finding,) = (finding for finding in examine(needs) if finding.name == "trainer")
    assert (finding.severity == "problem") is bool(words)
    assert words in finding.found


def test_a_version_out_of_the_supported_range_is_a_warning_with_the_range(monkeypatch):
    monkeypatch.setattr(packages, "supported_versions", lambda: {"deepspeed": ">=0.20"})
    (finding,) = (f for f in examine(Needs()) if f.name == "deepspeed")
    assert finding.severity == "warning"
    assert ">=0.20" in finding.found


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        ("raise ImportError('its library is torn')", "exit status 1): ImportError: its library is torn"),
        ("import os, sys; print('cannot go on', file=sys.stderr, flush=True); os.abort()", "signal 6): cannot go on"),
        ("import time; time.sleep(60)", "took longer than 2 s"),
        ("import sys; sys.exit(0)", "without a word"),
        ("raise ModuleNotFoundError('No module', name='torch')", "ModuleNotFoundError"),
    ],
)
def test_whatever_an_import_does_is_told_in_one_line(stub, expected, monkeypatch, tmp_path):
    (tmp_path / "deepspeed.py").write_text(stub)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    package = imported("deepspeed", seconds=2 if "sleep" in stub else 60)
    assert expected in package.trouble
    assert "\n" not in package.trouble


def test_a_package_that_is_not_there_is_missing_and_noise_does_not_hide_a_version(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    (tmp_path / "deepspeed.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'deepspeed'\", name='deepspeed')"
    )
    assert imported("deepspeed", seconds=60).is_missing
    (tmp_path / "deepspeed.py").write_text("print('a banner')\n__version__ = '1.2.3'")
    assert imported("deepspeed", seconds=60).version == "1.2.3"
