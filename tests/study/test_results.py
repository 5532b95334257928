"""`raystudy.load`: tidy frames of a study that has run."""

import numpy as np
import pytest

import raystudy
from raystudy.errors import StorageError
from tests.conftest import TINY
from tests.execute.test_local import copy_inputs


@pytest.fixture(scope="module")
def results(tiny_storage):
    return raystudy.load(tiny_storage / "studies" / "tiny")


def test_runs_have_one_row_per_run_with_its_losses(results):
    assert len(results.runs) == len(set(results.runs.run_id)) > 50
    assert set(results.runs.status) == {"finished"}
    np.testing.assert_allclose(results.runs["loss"], results.runs[["loss/prose", "loss/code"]].mean(axis=1))
    assert (results.runs.share_of_weights_changed > 0.5).all()


def test_curves_are_long_and_belong_to_runs(results):
    assert set(results.curves.run_id) == set(results.runs.run_id)
    assert {"step", "loss", "gradient_norm", "lr"} <= set(results.curves.columns)


def test_scores_are_a_table_that_other_tools_take(results):
    assert set(results.scores.columns) == {"protocol", "recipe", "metric", "seed", "score", "edge"}
    assert not results.scores.duplicated(["protocol", "recipe", "metric", "seed"]).any()
    assert {"truth", "reduced", "standard", "ladder@0.01"} <= set(results.scores.protocol)


def test_the_comparison_has_one_row_per_candidate_and_metric(results):
    assert len(results.comparison) == len(results.comparison_json["comparisons"])
    assert results.comparison.spearman.between(-1, 1).all()


def test_a_study_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StorageError, match="must be the folder of a study"):
        raystudy.load(tmp_path / "none")


def test_run_in_python_makes_the_runs_and_returns_their_results(tiny_storage, tmp_path):
    storage = copy_inputs(tiny_storage, tmp_path / "storage")
    overrides = ["training.steps=2", "models.target.training.steps=2"]
    results = raystudy.run(TINY, storage=storage, local=True, overrides=overrides)
    assert set(results.runs.status) == {"finished"}
    assert results.curves.step.max() == 1
    assert results.verdict
