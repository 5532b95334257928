"""What determines a command's run is in its id, and nothing else; and such runs need no torch."""

import subprocess
import sys

import pytest

from raystudy.specs.model import ExternalModel
from raystudy.specs.run import COMMAND_NUMERICS, ResolvedDecoder, read_run
from tests.command.runs import a_run
from tests.conftest import ROOT

DECODER = ResolvedDecoder(kind="decoder", layers=1, width=8, heads=1, context=8, vocabulary=64)
SETTINGS = a_run().settings
CHANGES = [
    {"shards": "0" * 32},
    {"version": "stub-2"},
    {"seed": 1},
    {"precision": "bf16-autocast"},
    {"numerics": COMMAND_NUMERICS + 1},
    {"settings": SETTINGS.model_copy(update={"lr": 0.02})},
    {"settings": SETTINGS.model_copy(update={"steps": 5})},
    {"model": DECODER},
    {"model": ExternalModel(kind="external", parameters=1001, context=8)},
    {"model": ExternalModel(kind="external", parameters=1000, context=8, settings={"blocks": 2})},
]


def test_the_id_is_the_same_in_every_version():
    assert a_run().run_id == "82f367f3185a3f4b16e3ac31c18ced64"


@pytest.mark.parametrize("change", CHANGES)
def test_what_determines_the_result_moves_the_id_and_comes_back_from_json(change):
    run = a_run(**change)
    assert run.run_id != a_run().run_id
    assert read_run(run.model_dump_json()) == run


def test_flops_are_six_a_parameter_unless_given():
    assert a_run().flops_per_token == 6000
    model = ExternalModel(kind="external", parameters=1000, flops_per_token=7.0)
    assert a_run(model=model).flops_per_token == 7.0


def test_a_run_by_a_command_loads_no_torch(tmp_path):
    code = f"""
import pathlib, sys
from tests.command.runs import make
assert make(pathlib.Path({str(tmp_path)!r})).status == "finished"
print("torch" in sys.modules, "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False False\n", done.stderr
