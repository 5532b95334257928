"""`raystudy parity` as a person meets it: table, verdict, exit status, what is refused. Workers are stood in for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.cli.main import main
from raystudy.errors import SpecError
from raystudy.execute import parity as asking
from raystudy.execute.first_cause import Cause
from raystudy.reference.parity.cases import STUDY, Case, in_one_process, read_cases, study_case, write_cases
from raystudy.reference.parity.judging import Parity
from raystudy.reference.parity.naming import Known, named_evaluation
from raystudy.reference.parity.observed import Sums, write_observed
from raystudy.reference.parity.observing import observe_in_one_process
from raystudy.reference.parity.quantities import Row
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.load import load_study
from raystudy.train.evaluation import ValidationDocuments
from tests.conftest import TINY as TINY_STUDY
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(300)

ENGINE = DeepSpeedEngine(kind="deepspeed", workers=2)
DEEPSPEED = ["--set", "models.target.engine.kind=deepspeed", "--set", "models.target.engine.workers=2"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("verb") / "storage"


def test_the_verb_prints_a_table_and_the_verdict_last_and_leaves_no_run(storage, monkeypatch, capsys):
    def fake(cases, at, validation, folder):
        """Workers that do what one process does."""
        view, documents = open_view(at.root, cases[0].run.shards), {}
        for digest in validation:
            shard = open_tokens(at.root, digest)
            documents[digest] = ValidationDocuments(shard.documents(), shard.document_bytes.tolist())
        write_cases(folder, cases)
        for case in read_cases(folder):
            one = Case(case.name, in_one_process(case.run), case.engine)
            seen = observe_in_one_process(one, view, documents, "cpu")
            rows = [sum(end - begin for begin, end in parts) for parts in case.parts]
            write_observed(folder, case.name, replace(seen, rows=rows))

    monkeypatch.setattr(asking, "start_workers", fake)
    assert main(["parity", str(TINY_STUDY), "--storage", str(storage), "--steps", "4", *DEEPSPEED]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["target", "train/", "reference/", "difference", "bound", "same?"]
    assert out[-1] == "target: same: train/ and reference/ are the same trainer within the bounds above"
    assert not [*(storage / "runs").glob("*")]


@pytest.mark.parametrize(("is_same", "status"), [(True, 0), (False, 9), (None, 10)])
def test_the_exit_status_is_that_of_the_worst_verdict(monkeypatch, capsys, tmp_path, is_same, status):
    def fake(*_):
        for name, found in (("a", True), ("b", is_same)):
            row = Row(STUDY, "loss", "1", "2", float("inf"), 0.1, found)
            yield Parity(name, [row], [Known("decay", "weight decay", float("inf"))], [])

    monkeypatch.setattr("raystudy.cli.parity.parities", fake)
    asked = ["parity", str(TINY_STUDY), "--storage", str(tmp_path), *DEEPSPEED]
    assert main(asked) == status
    assert capsys.readouterr().out.splitlines()[-1].startswith("b: ")
    assert main([*asked, "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert [each["verdict"] for each in told] == ["same", {0: "same", 9: "different", 10: "undecided"}[status]]


def test_workers_that_fail_are_an_error_with_their_first_cause(storage, monkeypatch, capsys):
    monkeypatch.setattr(asking, "start_workers", lambda *_: Cause("program", "KeyError: 'x'", 1))
    assert main(["parity", str(TINY_STUDY), "--storage", str(storage), "--steps", "4", *DEEPSPEED]) == 1
    assert "the reference's workers must make the short runs, but failed: KeyError: 'x'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ([], 2, "a study must have a model of engine deepspeed to compare with train/, but got proxy (engine torch)"),
        (["--model", "proxy", *DEEPSPEED], 2, "--model must name a model of engine deepspeed (target), but got proxy"),
        (["--model", "none", *DEEPSPEED], 2, "--model must name a model of engine deepspeed (target), but got 'none'"),
        (["--steps", "1", *DEEPSPEED], 2, "--steps must be from 2 to 99, but got 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_built(tmp_path, capsys, more, status, words):
    assert main(["parity", str(TINY_STUDY), "--storage", str(tmp_path / "s"), *more]) == status
    assert words in capsys.readouterr().err


def test_a_trainer_of_ones_own_is_not_compared():
    command = ["kind=command", "command=[train]", "version=v1"]
    loaded = load_study(TINY_STUDY, [f"models.target.engine.{each}" for each in command])
    with pytest.raises(SpecError, match=r"got target \(engine command\)\. Only what raystudy itself trains"):
        asking.reference_models(loaded.spec, "target")


def test_deepspeed_that_is_not_installed_is_said_before_anything_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(asking, "find_spec", lambda name: None if name == "deepspeed" else object())
    assert main(["parity", str(TINY_STUDY), "--storage", str(tmp_path / "s"), *DEEPSPEED]) == 7
    assert "Install raystudy[deepspeed]" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_an_evaluation_that_fits_nothing_known_is_not_named():
    ours = Sums(np.array([3.0, 5.0, 7.0]), np.array([1, 2, 3]))
    theirs = replace(ours, loss_sum=ours.loss_sum * 1.1)
    assert named_evaluation({"v": ours}, {"v": theirs}, 2) == []
    assert named_evaluation({"v": ours}, {}, 2) == ["an evaluation that leaves out a validation set"]
    fewer = Sums(ours.loss_sum[:2], ours.num_tokens[:2])
    assert named_evaluation({"v": ours}, {"v": fewer}, 2) == ["an evaluation of 2 documents in place of 3"]


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(SpecError, match="--steps must be from 2 to 99"):
        study_case(a_run("0" * 32), ENGINE, steps)


def test_a_schedule_that_does_not_fit_into_the_steps_is_refused_with_a_way_out():
    run = a_run("0" * 32)
    schedule = run.settings.schedule.model_copy(update={"warmup": 0.05, "warmup_steps": 9})
    settings = run.settings.model_copy(update={"schedule": schedule, "steps": 50})
    with pytest.raises(SpecError, match="Raise --steps, or give warm-up and decay as shares"):
        study_case(run.model_copy(update={"settings": settings}), ENGINE, 8)
