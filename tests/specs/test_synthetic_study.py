"""A study of synthetic recipes: what it may hold, and what is told when it holds something else."""

import pytest

from raystudy.errors import SpecError
from raystudy.execute.inputs import find_inputs
from raystudy.specs.load import load_study
from raystudy.specs.model import RandomFeaturesSpec
from raystudy.specs.run import FEATURES_NUMERICS, FeaturesProbe, FeaturesRun, read_run
from raystudy.specs.training import SgdSettings
from tests.conftest import ROOT
from tests.planted import write_study
from tests.specs.test_study_file import STUDY as TEXT_STUDY

STUDY = """
name: mine
synthetic: {domains: {near: {exponent: 1.2}, far: {exponent: 1.0, teacher_shift: 0.5}}}
recipes:
  - {name: one, kind: synthetic, dimension: corpus, weights: {near: 1}}
  - {name: two, kind: synthetic, dimension: corpus, weights: {near: 1, far: 2}}
baselines:
  - {name: base, kind: synthetic, dimension: corpus, weights: {near: 1}}
validation: {near: {source: {kind: synthetic, domain: near}}}
models: {proxy: {kind: random-features, features: 8, training: {steps: 10}}}
protocols:
  truth: {kind: known, scores: best-achievable}
  low: {kind: reduced-lr, model: proxy, lr: {ratio: 0.1, baseline: base, space: {lr: {grid: [0.1, 1]}}}}
  aligned: {kind: gradient-alignment, model: proxy}
truth: truth
"""


def test_a_right_study_is_read_and_a_baseline_is_not_compared(tmp_path):
    study = load_study(write_study(tmp_path, STUDY)).spec
    assert study.is_synthetic
    assert [recipe.name for recipe in study.recipes] == ["one", "two"]
    assert [recipe.name for recipe in study.all_recipes] == ["one", "two", "base"]


def test_recipes_with_the_same_data_share_a_digest_whatever_their_names(tmp_path):
    from raystudy.artifacts.storage import Storage

    study = load_study(write_study(tmp_path, STUDY)).spec
    shards = find_inputs(study, Storage(tmp_path / "storage")).shards
    assert shards["one"] == shards["base"] != shards["two"]
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "weights: {near: 1, far: 2}",
            "weights: {near: 1, fra: 2}",
            "the name of a domain, but got 'fra'. Did you mean",
        ),
        ("domain: near}", "domain: neer}", "must be the name of a domain, but got 'neer'. Did you mean 'near'?"),
        ("weights: {near: 1, far: 2}", "weights: {near: 0}", "at least one weight must be above 0"),
        ("exponent: 1.2", "exponent: -1", "greater than or equal to 0"),
        ("features: 8, training: {steps: 10}", "features: 8", "the key 'training' must be given"),
        ("features: 8", "featurs: 8", "Did you mean 'features'?"),
        ("baseline: base", "baseline: basis", "Did you mean 'base'?"),
        ("name: base", "name: one", "every recipe's name must occur once, but 'one' occurs again"),
        ("scores: best-achievable", "scores: best", "scores"),
        ("{steps: 10}", "{steps: 10, decay: 1.5}", "less than or equal to 1"),
        (
            "models: {proxy: {kind: random-features, features: 8, training: {steps: 10}}}",
            "models: {proxy: {kind: decoder, layers: 1, width: 16, heads: 2, context: 32}}",
            "a model must fit the study, which has a section `synthetic`, but its kind is 'decoder'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(tmp_path, old, new, told):
    assert old in STUDY
    with pytest.raises(SpecError) as caught:
        load_study(write_study(tmp_path, STUDY.replace(old, new)))
    assert told in str(caught.value)
    assert "study.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "{kind: decoder, layers: 1, width: 16, heads: 2, context: 32}",
            "{kind: random-features, features: 8}",
            "fit the",
        ),
        (
            "{kind: reduced-lr, model: proxy, lr: 1e-4}",
            "{kind: known, scores: best-achievable}",
            "only that of synthetic",
        ),
        ("training: {steps: 10, batch_tokens: 64}\n", "", "training: the key 'training' must be given"),
    ],
)
def test_text_and_synthetic_domains_do_not_mix(tmp_path, old, new, told):
    assert old in TEXT_STUDY
    with pytest.raises(SpecError) as caught:
        load_study(write_study(tmp_path, TEXT_STUDY.replace(old, new)))
    assert told in str(caught.value)


def test_runs_of_every_kind_come_back_from_their_json():
    model = RandomFeaturesSpec(kind="random-features", features=8)
    settings = SgdSettings(steps=10, lr=0.1)
    features = FeaturesRun(
        kind="train-features", shards="x", model=model, settings=settings, seed=0, numerics=FEATURES_NUMERICS
    )
    probe = FeaturesProbe(
        kind="probe", probe="gradient-alignment", shards="x", model=model, validation="v", numerics=FEATURES_NUMERICS
    )
    for run in (features, probe):
        assert read_run(run.model_dump_json()) == run
        assert read_run(run.model_dump_json()).run_id == run.run_id
    assert features.num_tokens == 160
    assert features.run_id == "5c803d243030c2c919b4e3f4d6697203"


@pytest.mark.parametrize("name", ["random-features", "tiny-features"])
def test_shipped_studies_with_a_known_truth_are_right(name):
    assert load_study(ROOT / "search_spaces" / f"{name}.yaml").spec.is_synthetic
