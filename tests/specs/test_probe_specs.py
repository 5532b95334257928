"""Probes: what is in their identity, and what a study file may ask of them."""

import json

import pytest
from pydantic import ValidationError

from raystudy.errors import SpecError
from raystudy.specs.load import load_study
from raystudy.specs.model import RandomFeaturesSpec
from raystudy.specs.run import (
    AlignmentProbe,
    FeaturesProbe,
    KeptWeights,
    LikenessProbe,
    ResolvedDecoder,
    SharpnessProbe,
    read_run,
)
from raystudy.specs.space import SearchSpace
from tests.planted import write_study
from tests.specs.test_study_file import STUDY
from tests.specs.test_synthetic_study import STUDY as SYNTHETIC

MODEL = ResolvedDecoder(kind="decoder", layers=1, width=8, heads=1, context=8, vocabulary=32)
COMMON = {"kind": "probe", "shards": "x", "numerics": 1}
DECODER = {**COMMON, "model": MODEL, "seed": 0, "batches": 4, "batch_sequences": 2}
ALIGNMENT = AlignmentProbe(probe="decoder-gradient-alignment", validation="v", **DECODER)
SHARPNESS = SharpnessProbe(probe="sharpness", iterations=10, tolerance=1e-3, **DECODER)
LIKENESS = LikenessProbe(probe="likeness", order=2, measure="cosine", tokens=100, validation="v", **COMMON)
FEATURES = FeaturesProbe(
    probe="gradient-alignment", model=RandomFeaturesSpec(kind="random-features", features=8), validation="v", **COMMON
)


def test_ids_of_probes_are_the_same_in_every_process_and_version():
    assert FEATURES.run_id == "8727cf9babb99bbc062028e436ec8919"  # as before there were probes of other kinds
    assert ALIGNMENT.run_id == "19f0cd565672f419402162860d1b0183"
    assert SHARPNESS.run_id == "dc30bb3189e6ed85db58b8b39de96e86"
    assert LIKENESS.run_id == "d4b45555d9b042610416bba413533b7f"


@pytest.mark.parametrize("probe", [FEATURES, ALIGNMENT, SHARPNESS, LIKENESS], ids=lambda probe: probe.probe)
def test_a_probe_of_every_kind_comes_back_from_its_json(probe):
    read = read_run(probe.model_dump_json())
    assert read == probe
    assert read.run_id == probe.run_id


def test_what_determines_a_measurement_moves_its_id():
    kept = KeptWeights(run_id="0" * 32, step=10)
    changes = [
        {"shards": "y"},
        {"validation": "w"},
        {"seed": 1},
        {"batches": 5},
        {"batch_sequences": 3},
        {"precision": "fp64"},
        {"weights": kept},
        {"weights": kept.model_copy(update={"step": 11})},
        {"weights": kept.model_copy(update={"run_id": "1" * 32})},
        {"model": MODEL.model_copy(update={"width": 16})},
        {"numerics": 2},
    ]
    ids = {ALIGNMENT.model_copy(update=change).run_id for change in changes}
    ids |= {SHARPNESS.model_copy(update=change).run_id for change in ({}, {"iterations": 11}, {"tolerance": 1e-2})}
    ids |= {
        LIKENESS.model_copy(update=c).run_id for c in ({}, {"order": 1}, {"measure": "cross-entropy"}, {"tokens": 9})
    }
    assert len(ids | {ALIGNMENT.run_id}) == len(changes) + 1 + 3 + 4


@pytest.mark.parametrize("run_id", ["../x", "", "0" * 31, "G" * 32])
def test_kept_weights_are_of_a_run_and_no_path(run_id):
    with pytest.raises(ValidationError):
        KeptWeights(run_id=run_id, step=1)


def test_tokens_and_passes_of_a_probe_are_counted():
    assert ALIGNMENT.num_tokens == 3 * 4 * 2 * 8
    assert ALIGNMENT.passes == 1
    assert SHARPNESS.num_tokens == 4 * 2 * 8
    assert SHARPNESS.passes == 1 + 2 * 2 * 10
    assert LIKENESS.passes == FEATURES.num_tokens == 0


OLD = "{kind: reduced-lr, model: proxy, lr: 1e-4}"
LADDER = "{kind: lr-ladder, model: proxy, space: {lr: {grid: [1e-3, 1e-2]}}, seeds: [0, 1]}"


READ = (
    "{kind: reduced-lr, model: proxy, lr: 1e-4, at_steps: [10, 20]}",
    "{kind: reduced-lr, model: proxy, lr: 1e-4, readout: ema}",
)


def told_of(tmp_path, *protocols: str) -> str:
    """What is told of a study with these protocols beside its own."""
    assert OLD in STUDY
    lines = [OLD, *(f"  p{place}: {protocol}" for place, protocol in enumerate(protocols))]
    with pytest.raises(SpecError) as caught:
        load_study(write_study(tmp_path, STUDY.replace(OLD, "\n".join(lines))))
    return str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ("{kind: sharpness}", "the key 'model' must be given"),
        ("{kind: sharpness, model: proxi}", "Did you mean 'proxy'?"),
        ("{kind: sharpness, model: [proxy]}", "model"),
        ("{kind: sharpness, model: proxy, batches: 1}", "greater than or equal to 2"),
        ("{kind: sharpness, model: proxy, batch_tokens: 63}", "batch_tokens must be a multiple of the model's context"),
        ("{kind: sharpness, model: proxy, tolerance: 0}", "greater than 0"),
        ("{kind: gradient-alignment, model: proxy, measure: cosin}", "'inner-product' or 'cosine'"),
        ("{kind: gradient-alignment, model: proxy, seeds: [0, 0]}", "seeds must differ"),
        ("{kind: gradient-alignment, model: proxy, at: start}", "p1.at"),
        ("{kind: gradient-alignment, model: proxy, at: {protocol: p9}}", "a protocol that trains, but got 'p9'"),
        ("{kind: gradient-alignment, model: proxy, at: {protocol: p1}}", "a protocol that trains, but got 'p1'"),
        ("{kind: gradient-alignment, model: proxy, at: {protocol: p0}}", "has an `lr` if its protocol is an lr-ladder"),
        ("{kind: gradient-alignment, model: proxy, at: {protocol: p0, lr: 2e-3}}", "must be a learning rate of 'p0'"),
        (
            "{kind: sharpness, model: proxy, seeds: [0, 7], at: {protocol: p0, lr: 1e-3}}",
            "seeds are [0, 1], but got [7]",
        ),
        ("{kind: sharpness, model: proxy, at: {protocol: p0, lr: 1e-3, recipe: none}}", "recipe, but got 'none'"),
        ("{kind: sharpness, model: target, at: {protocol: p0, lr: 1e-3}}", "but they are 'target' and 'proxy'"),
        (
            "{kind: sharpness, model: proxy, at: {protocol: p2}}",
            "the weights of one step as they were, but 'p2' has at_",
        ),
        ("{kind: sharpness, model: proxy, at: {protocol: p3}}", "but 'p3' has readout"),
        ("{kind: likeness, order: 4}", "less than or equal to 3"),
        ("{kind: likeness, model: proxy}", "model"),
    ],
)
def test_a_probe_that_does_not_fit_is_told_with_the_way_out(tmp_path, protocol, told):
    text = told_of(tmp_path, LADDER, protocol, *READ)
    assert told in text
    assert "study.yaml:" in text


def test_probes_that_fit_are_read(tmp_path):
    fitting = [
        LADDER,
        "{kind: gradient-alignment, model: proxy}",
        "{kind: gradient-alignment, model: proxy, at: {protocol: p0, lr: 1e-3}, preconditioned: true, seeds: [0, 1]}",
        "{kind: sharpness, model: proxy, at: initialisation, batch_tokens: 64, precision: fp64}",
        "{kind: likeness, order: 3, measure: cosine}",
    ]
    lines = [OLD, *(f"  p{place}: {protocol}" for place, protocol in enumerate(fitting))]
    study = load_study(write_study(tmp_path, STUDY.replace(OLD, "\n".join(lines)))).spec
    assert study.protocols["p2"].at.lr == 1e-3
    assert study.protocols["p1"].at == "initialisation"


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ("{kind: gradient-alignment, model: proxy, seeds: [0, 1]}", "is exact and has no settings, but got seeds"),
        ("{kind: sharpness, model: proxy}", "must be of a study about text"),
        ("{kind: likeness}", "must be of a study about text"),
    ],
)
def test_probes_of_text_have_no_place_in_a_study_of_synthetic_domains(tmp_path, protocol, told):
    old = "{kind: gradient-alignment, model: proxy}"
    assert old in SYNTHETIC
    with pytest.raises(SpecError) as caught:
        load_study(write_study(tmp_path, SYNTHETIC.replace(old, protocol)))
    assert told in str(caught.value)


def test_a_random_ladder_is_probed_at_the_rates_it_drew(tmp_path):
    space = {"random": {"points": 3, "seed": 0}, "lr": {"log_uniform": {"low": 1e-3, "high": 1e-2}}}
    drawn = SearchSpace.model_validate_json(json.dumps(space)).lrs()
    ladder = f"{{kind: lr-ladder, model: proxy, space: {json.dumps(space)}}}"
    probe = "{{kind: sharpness, model: proxy, at: {{protocol: p0, lr: {lr}}}}}"
    told = told_of(tmp_path, ladder, probe.format(lr=1e-3))
    assert f"must be a learning rate of 'p0', but got 0.001. Known: {drawn[0]:g}" in told
    right = STUDY.replace(OLD, "\n".join([OLD, f"  p0: {ladder}", f"  p1: {probe.format(lr=f'{drawn[1]:g}')}"]))
    assert "p1" in load_study(write_study(tmp_path, right)).spec.protocols


def test_a_probe_is_no_truth_and_in_no_contrast_by_another_metric_than_loss(tmp_path):
    text = STUDY.replace(OLD, f"{OLD}\n  like: {{kind: likeness}}\n  other: {{kind: likeness, order: 2}}")
    asked = ["comparison.primary_metric=bits-per-byte", "comparison.contrast=[other, like]", "truth=like"]
    with pytest.raises(SpecError) as caught:
        load_study(write_study(tmp_path, text), asked)
    told = str(caught.value)
    assert "truth: a probe has scores for 'loss' and 'loss/<validation set>' alone" in told
    assert "comparison.contrast[0]: a probe has scores" in told
    asked = ["comparison.primary_metric=loss", "comparison.contrast=[other, like]"]
    assert load_study(write_study(tmp_path, text), asked).spec.comparison.contrast == ("other", "like")


def test_models_under_mup_have_no_gradient_probes(tmp_path):
    text = STUDY.replace(OLD, f"{OLD}\n  flat: {{kind: sharpness, model: proxy}}")
    with pytest.raises(SpecError, match="but model 'proxy' is under muP"):
        load_study(write_study(tmp_path, text), ["models.proxy.mup_base_width=8"])


SHARP = "{kind: sharpness, model: proxy, at: {protocol: p0, step: "


@pytest.mark.parametrize(
    ("trained", "step", "told"),
    [
        (OLD, 11, "p1.at.step: a step must be one of the 10 of the runs of 'p0', but got 11"),
        (
            "{kind: tuned, model: proxy, space: {lr: {grid: [1e-3]}, tokens: {grid: [320, 960]}}}",
            6,
            "one of the 5 of the runs of 'p0' at the point of tokens 320, but got 6",
        ),
        (
            "{kind: reduced-lr, model: proxy, lr: 1e-4, branch: {at: 8, steps: 3}}",
            4,
            "one of the 3 of the branches of 'p0', but got 4",
        ),
    ],
)
def test_a_probe_at_a_step_that_its_runs_do_not_have_is_told_before_anything_runs(tmp_path, trained, step, told):
    text = told_of(tmp_path, trained, f"{SHARP}{step}}}}}")
    assert told in text
    assert "study.yaml:" in text
    assert "Take an earlier step, or leave `step` out for the last weights" in text
    lines = [OLD, f"  p0: {trained}", f"  p1: {SHARP}{step - 1}}}}}"]
    load_study(write_study(tmp_path, STUDY.replace(OLD, "\n".join(lines))))
