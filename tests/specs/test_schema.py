"""The schemas that editors read: made from the models, loosened where files may say less, named by every file."""

import json
import subprocess
import sys

import jsonschema
import pytest

from raystudy.specs.schema import FILE_KINDS, file_schema
from raystudy.specs.yaml_file import parse_yaml, read_yaml
from tests.conftest import ROOT
from tests.specs.test_study_file import STUDY

FOLDER = ROOT / "search_spaces"
KIND_OF_FOLDER = {"search_spaces": "study", "spaces": "space", "recipes": "catalogue"}
SHIPPED = sorted(FOLDER.rglob("*.yaml"))


def refused(kind: str, text: str) -> list[str]:
    document = parse_yaml(text, "file")
    assert document.problems == []
    validator = jsonschema.Draft202012Validator(file_schema(kind))
    return [error.message for error in validator.iter_errors(document.data)]


@pytest.mark.parametrize("kind", list(FILE_KINDS))
def test_the_committed_schemas_are_those_of_the_models(kind):
    committed = (FOLDER / "schema" / f"{kind}.json").read_text()
    assert committed == json.dumps(file_schema(kind), indent=1) + "\n", "the models have changed: run `make schema`"
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_names_its_schema_and_keeps_to_it(path):
    first = path.read_text().splitlines()[0]
    marker, _, named = first.partition("$schema=")
    assert marker == "# yaml-language-server: "
    schema = (path.parent / named).resolve()
    assert schema == FOLDER / "schema" / f"{KIND_OF_FOLDER[path.parent.name]}.json"
    jsonschema.validate(read_yaml(path).data, json.loads(schema.read_text()), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("truth: truth", "trth: truth"),
        ("steps: 10", "stepz: 10"),
        ("kind: reduced-lr", "kind: reduced"),
        ("layers: 1", "layers: one"),
        ("lr: 1e-4", "lr: 0"),
        ("lr: 1e-4", "lr: fast"),
        ("domains: [prose]", "domains: [poetry]"),
        ("space: {lr: {grid: [1e-3, 1e-2]}}", "space: {lr: {gird: [1e-3, 1e-2]}}"),
    ],
)
def test_a_typo_is_refused_by_the_schema(old, new):
    assert refused("study", STUDY) == []
    assert old in STUDY
    assert refused("study", STUDY.replace(old, new))


def test_names_paths_and_plain_numbers_are_what_a_file_may_hold():
    short = STUDY.replace("space: {lr: {grid: [1e-3, 1e-2]}}", "space: spaces/mine.yaml")
    short = short.replace("lr: 1e-4", "lr: {ratio: 0.1, baseline: one, space: spaces/mine.yaml}")
    assert refused("study", short.replace("recipes:\n", "recipes:\n  - balanced\n")) == []
    assert refused("catalogue", "recipes: [balanced]"), "a catalogue holds recipes, not names"
    assert refused("space", "lr: {log_grid: {low: 1e-3, high: 1e-1, points: 3}}") == []


def test_the_verb_prints_the_schema_and_loads_nothing_heavy(cli):
    assert json.loads(cli("schema").stdout)["title"] == "raystudy study"
    assert json.loads(cli("schema", "space").stdout) == file_schema("space")
    code = (
        "import sys; from raystudy.cli.main import main; main(['schema'])\n"
        "sys.exit(str([n for n in ('torch', 'ray', 'pandas', 'pyarrow') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
