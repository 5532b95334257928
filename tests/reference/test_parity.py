"""`raystudy parity`: each planted difference makes it fail and is named; an honest reference is the same."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.artifacts.storage import Storage
from raystudy.errors import RaystudyError, SpecError
from raystudy.execute import parity as asking
from raystudy.execute.first_cause import Cause
from raystudy.reference.parity.cases import PROBE, STUDY, TINY, study_case
from raystudy.reference.parity.judging import OneProcess
from raystudy.reference.parity.naming import named_evaluation
from raystudy.reference.parity.observed import Observed, Sums, read_observed, write_observed
from raystudy.reference.parity.quantities import PROBE_WEIGHTS_BOUND, worst_parameter
from raystudy.reference.parity.replays import epsilon_of, replay
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.train.evaluation import ValidationDocuments
from tests.conftest import ROOT
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(500)

ENTRY = (sys.executable, "-m", "tests.reference.planted_differences")
STEPS = 8
ENGINE = DeepSpeedEngine(kind="deepspeed", workers=2, zero_stage=1, micro_batch_tokens=32)


@pytest.fixture(scope="module")
def asked(shard_storage):
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    documents = {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    run = a_run(view, steps=STEPS).model_copy(update={"engine": "deepspeed"})
    return SimpleNamespace(storage=storage, view=open_view(storage, view), documents=documents, run=run)


@pytest.fixture(scope="module")
def one(asked) -> OneProcess:
    return OneProcess(study_case(asked.run, ENGINE, STEPS), asked.view, asked.documents, "cpu")


@pytest.fixture(scope="module")
def one_in_bf16(asked) -> OneProcess:
    run = asked.run.model_copy(update={"precision": "bf16-master"})
    return OneProcess(study_case(run, ENGINE, STEPS), asked.view, asked.documents, "cpu")


@pytest.fixture(scope="module")
def planted(asked, one, tmp_path_factory) -> Path:
    """The folder in which one pair of workers has left what they saw under every plant."""
    folder = tmp_path_factory.mktemp("parity")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": str(ROOT), "CXX": "/bin/false", "CC": "/bin/false"}.items():
            patch.setenv(name, value)
        digests = dict.fromkeys(asked.documents, "v")
        cause = asking.start_workers(one.cases, Storage(asked.storage), digests, folder, ENTRY)
    assert cause is None, cause
    return folder


def seen_under(planted: Path, name: str) -> dict[str, Observed]:
    """What was seen under a plant; where it has no say, what an honest reference did."""
    places = {case: name if (planted / name / f"{case}.json").exists() else "none" for case in (STUDY, TINY, PROBE)}
    return {case: read_observed(planted / place, case) for case, place in places.items()}


def test_an_honest_reference_is_the_same_and_every_known_difference_would_have_shown(one, planted):
    parity = one.judge("truth", seen_under(planted, "none"))
    assert parity.verdict == "same", parity.rows
    assert parity.named == []
    assert [known.name for known in parity.known if not known.would_show] == []
    assert len(parity.known) == 7
    assert {row.case for row in parity.rows} == {STUDY, TINY, PROBE}
    assert "are the same trainer within the bounds" in parity.sentence
    assert "not visible" not in parity.sentence


def test_an_honest_reference_in_bf16_with_masters_is_the_same_within_its_band(one_in_bf16, planted):
    parity = one_in_bf16.judge("truth", seen_under(planted, "none in bf16"))
    assert parity.verdict == "same", parity.rows
    bounds = {row.quantity: row.bound for row in parity.rows if row.case == STUDY}
    assert 5e-3 <= bounds[f"loss, worst of {STEPS} steps"] < 0.05


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ("no masters", "weights held in bf16, without FP32 masters"),
        ("means of micro-batches", "the mean of micro-batches' means"),
        ("means of workers", "the mean of workers' means in place of the mean over all tokens"),
        ("decay everywhere", "weight decay on biases and norms too"),
        ("fixed epsilon", "an epsilon of AdamW of"),
        ("three times the epsilon", "an epsilon of AdamW of about"),
        ("clipped before", "gradients clipped on each worker before they are averaged"),
        ("mean of means", "an evaluation that is the mean of workers' means"),
        ("dropped", "an evaluation that drops document 5"),
        ("doubled", "an evaluation that counts document 3 twice"),
    ],
)
def test_a_planted_difference_makes_parity_fail_and_is_named_alone(one, planted, plant, words):
    parity = one.judge("truth", seen_under(planted, plant))
    assert parity.verdict == "different"
    assert len(parity.named) == 1, (parity.named, parity.known)
    assert words in parity.named[0]
    assert parity.sentence.startswith("truth: different: the reference behaves like training with ")


def test_lost_masters_are_named_in_bf16_too(one_in_bf16, planted):
    parity = one_in_bf16.judge("truth", seen_under(planted, "no masters in bf16"))
    assert parity.verdict == "different"
    assert parity.named == ["weights held in bf16, without FP32 masters"]
    (row,) = [row for row in parity.rows if row.case == TINY]
    assert row.is_same is False


def test_the_epsilon_is_read_off_the_first_step(one, planted):
    named = one.judge("truth", seen_under(planted, "three times the epsilon")).named[0]
    asked = one.cases[2].run.settings.optimizer.eps
    assert float(named.split("about ")[1].split()[0]) == pytest.approx(3 * asked, rel=0.03)
