"""Presets: another way to write a model's fields, which leaves no trace in the study or its runs."""

import jsonschema
import pytest

from raystudy.artifacts.shard_writer import write_tokens
from raystudy.artifacts.storage import open_storage
from raystudy.errors import DataError
from raystudy.specs.load import load_study
from raystudy.specs.model import DecoderSpec, count_parameters
from raystudy.specs.presets import PRESETS
from raystudy.specs.run import ResolvedDecoder
from raystudy.specs.schema import file_schema
from raystudy.specs.study import StudyDecoder
from raystudy.specs.yaml_file import parse_yaml
from raystudy.study.state import StudyInputs, StudyState
from tests.conftest import ROOT
from tests.planted import write_study
from tests.specs.test_study_file import STUDY, problems

OWN = "{kind: decoder, layers: 1, width: 16, heads: 2, context: 32}"


def a_study(folder, model: str, *overrides: str):
    return load_study(write_study(folder, STUDY.replace(OWN, model)), overrides)


def written_out(preset: str) -> str:
    fields = {"kind": "decoder", **PRESETS[preset].fields}
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def run_id(study) -> str:
    state = StudyState(study, StudyInputs({"one": "x", "two": "y"}, {"p": "z"}, 512), {})
    return state.want("proxy", "one", 1e-3, 0).run_id


def test_a_preset_and_the_same_fields_written_out_are_the_same_run(tmp_path):
    batch = "training.batch_tokens=1024"
    by_name = a_study(tmp_path, "{preset: llama-400k}", batch)
    by_fields = a_study(tmp_path, written_out("llama-400k").replace("True", "true").replace("False", "false"), batch)
    assert by_name.spec == by_fields.spec
    assert run_id(by_name.spec) == run_id(by_fields.spec)
    assert "preset" not in by_name.spec.model_dump_json()
    folder = open_storage(tmp_path).study("mine")
    folder.write_study(by_name, {"vocabulary": 7})
    assert folder.read_study()[0] == by_name.spec


def test_fields_beside_a_preset_and_on_the_command_line_replace_its_own(tmp_path):
    study = a_study(tmp_path, "{preset: gpt2-50k, context: 32, training: {steps: 3}}", "models.proxy.layers=2").spec
    model = study.models["proxy"]
    assert isinstance(model, StudyDecoder)
    assert (model.layers, model.width, model.context, model.activation) == (2, 64, 32, "gelu-tanh")
    assert study.settings_of("proxy").steps == 3
    chosen = a_study(tmp_path, "{preset: gpt2-50k, context: 32}", "models.proxy.preset=opt-100k").spec.models["proxy"]
    assert isinstance(chosen, StudyDecoder)
    assert (chosen.layers, chosen.position_offset, chosen.context) == (2, 2, 32)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{preset: gpt2-124}", "preset: must be the name of a preset, but got 'gpt2-124'. Did you mean 'gpt2-124m'?"),
        ("{preset: 7}", "must be the name of a preset, but got 7. Known: gpt2, pythia, opt, llama"),
        ("{preset: gpt2-50k}", "batch_tokens must be a multiple of context, but got 64 and 128"),
        ("{preset: llama, layers: 1, width: 16, heads: 2}", "the key 'context' must be given"),
        ("{preset: gpt2-50k, context: 32, heads: 5}", "heads must divide width, but got width=64, heads=5"),
        ("{preset: gpt2-50k, context: 32, kv_heads: 3}", "kv_heads must divide heads, but got heads=4, kv_heads=3"),
        ("{preset: gpt2-50k, context: 32, layer: 3}", "'layer' is not a known key. Did you mean 'layers'?"),
        ("{preset: gpt2-50k, context: 32, rotary_share: 0.5}", "may be given only where positions are rotary"),
        ("{preset: llama-400k, context: 32, mlp_ratio: 2}", "mlp_ratio may be given only where mlp_width is null"),
        ("{preset: gpt2-50k, context: 32, mup_base_heads: 2}", "only where mup_base_width is given"),
        ("{preset: pythia-200k, context: 32, heads: 64}", "must be an even number of 2 or more"),
        ("{preset: gpt2-50k, context: 32, mup_base_width: 30, mup_base_heads: 4}", "mup_base_heads must divide"),
        ("{preset: gpt2-50k, kind: random-features}", "a preset is a decoder's, but got 'random-features'"),
    ],
)
def test_a_broken_model_is_named_with_its_line_and_what_must_hold(model, expected, tmp_path):
    line = STUDY.splitlines().index(f"models: {{proxy: {OWN}}}") + 1
    found = problems(tmp_path, STUDY.replace(OWN, model))
    assert expected in found
    assert any(f"study.yaml:{line}:" in told for told in found.splitlines() if expected in told), found


def test_a_misspelt_preset_is_one_problem(tmp_path):
    assert "1 problem\n" in problems(tmp_path, STUDY.replace(OWN, "{preset: lama-400k}"))


def test_the_schema_takes_a_preset_in_place_of_fields_and_refuses_a_misspelt_one():
    validator = jsonschema.Draft202012Validator(file_schema("study"))

    def errors(model: str) -> list[object]:
        return list(validator.iter_errors(parse_yaml(STUDY.replace(OWN, model), "file").data))

    assert errors("{preset: pythia-70m}") == []
    assert errors("{preset: llama-400k, layers: 3}") == []
    assert errors("{preset: pythia-70}")
    assert errors("{layers: 3}")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_right_and_as_large_as_its_name_says(name):
    preset = PRESETS[name]
    if "layers" not in preset.fields:
        DecoderSpec(kind="decoder", layers=1, width=64, heads=4, context=8, **preset.fields)
        return
    counts = count_parameters(DecoderSpec(kind="decoder", **preset.fields), preset.vocabulary or 512)
    number, unit = float(name.split("-")[1][:-1]), {"k": 1e3, "m": 1e6, "b": 1e9}[name[-1]]
    size = counts.non_embedding if preset.vocabulary is None else counts.total
    assert size == pytest.approx(number * unit, rel=0.1)


def test_a_vocabulary_larger_than_a_shard_can_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match="at most 65536 tokens, which are kept as uint16, but has 65537"):
        write_tokens(tmp_path, [], [], 2**16 + 1, 0)
    with pytest.raises(ValueError, match="less than or equal to 65536"):
        ResolvedDecoder(kind="decoder", layers=1, width=8, heads=1, context=8, vocabulary=2**16 + 1)


def test_the_documentation_names_every_preset_and_every_field():
    text = (ROOT / "docs" / "training.md").read_text()
    for name in [*PRESETS, *DecoderSpec.model_fields]:
        assert f"`{name}`" in text or f"{name}:" in text, name
