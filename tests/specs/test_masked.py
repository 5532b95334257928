"""What is passed on of a study names a trainer's variables and keeps their values back."""

import json

import pytest
from ruamel.yaml import YAML

from raystudy.specs.masked import masked_study, masked_text

BLOCK = """\
name: ünïcode  # a comment that stays
models:
  small:
    engine: &trainer
      kind: command
      environment:
        TOKEN: hush-1
        OTHER: "hush 2"  # beside it
        LONG: |
          hush-3
          hush-4
        EMPTY:
      version: v1
  large: {engine: *trainer, settings: {environment: seen}}
  third: {engine: {kind: command, environment: {A: 'hush-5', B: hush-6}, version: v2}}
"""
OVERRIDES = """
# --set models.small.engine.environment.TOKEN=hush-7
# --set training.steps=4
# --set models.small.engine={kind: command, environment: {A: hush-8}, version: v1}"""


def test_values_of_environments_are_masked_in_a_study_file_and_all_else_stays():
    masked = masked_text(BLOCK + OVERRIDES)
    assert "hush" not in masked
    for kept in ("ünïcode  # a comment that stays", "# beside it", "settings: {environment: seen}", "version: v2"):
        assert kept in masked
    assert "# --set training.steps=4\n" in masked
    assert "# --set models.small.engine.environment.TOKEN=(masked)\n" in masked
    models = YAML(typ="safe").load(masked)["models"]
    assert dict(models["small"]["engine"]["environment"]) == {
        **dict.fromkeys(("TOKEN", "OTHER", "LONG"), "(masked)"),
        "EMPTY": None,
    }
    assert dict(models["third"]["engine"]["environment"]) == {"A": "(masked)", "B": "(masked)"}
    assert masked_text(masked).splitlines() == masked.splitlines()


def test_a_text_without_environments_is_the_same_and_one_that_is_no_yaml_is_left_out():
    text = BLOCK.replace("environment", "settings")
    assert masked_text(text) == text
    assert masked_text("") == ""
    assert "hush" not in masked_text(BLOCK + "\n]: hush")


def test_values_of_environments_are_masked_in_a_resolved_study():
    stored = {"study": {"models": {name: YAML(typ="safe").load(BLOCK)["models"][name] for name in ("small", "third")}}}
    masked = masked_study(stored)
    assert "hush" not in json.dumps(masked)
    assert masked["study"]["models"]["third"]["engine"]["environment"] == {"A": "(masked)", "B": "(masked)"}
    assert "hush-5" in json.dumps(stored), "what is given stays as it is"
    assert masked_study(masked) == masked


@pytest.mark.parametrize("odd", [None, 3, "text", [], {}, {"engine": "torch"}, {"engine": {"environment": 3}}])
def test_what_holds_no_environment_is_given_back(odd):
    assert masked_study(odd) == odd
