"""`raystudy.load`: tidy frames of a study that has run."""

import numpy as np
import pytest

import raystudy
from raystudy.errors import StorageError
from tests.conftest import TINY


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
    assert set(results.scores.columns) == {"protocol", "recipe", "metric", "seed", "score"}
    assert not results.scores.duplicated(["protocol", "recipe", "metric", "seed"]).any()
    assert {"truth", "reduced", "standard", "ladder@0.01"} <= set(results.scores.protocol)


def test_agreement_has_one_row_per_candidate_and_metric(results):
    assert len(results.agreement) == len(results.comparison["comparisons"])
    assert results.agreement.spearman.between(-1, 1).all()


def test_a_study_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StorageError, match="must be the folder of a study"):
        raystudy.load(tmp_path / "none")


def test_run_in_python_finds_everything_done(tiny_storage):
    results = raystudy.run(TINY, storage=tiny_storage, local=True)
    assert set(results.runs.status) == {"finished"}
