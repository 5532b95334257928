"""What a trainer leaves is checked strictly: each fault is one clear cause, and nothing of it becomes a record."""

import json
import math

import jsonschema
import pytest

from raystudy.artifacts.sealed import _verified
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.execute.work import do_task
from raystudy.specs.command_result import CommandResult
from raystudy.specs.commission import ExternalPlace
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.schema import file_schema
from tests.command.runs import HELD, a_run, a_task, commission, held_out, make, out_of
from tests.command.stub_trainer import QUALITY
from tests.conftest import make_shards

LOSS = QUALITY["clean"] + 1 / 4  # of the stub after its 4 steps at its best learning rate

FAULTS = {
    "no-result": ["must leave result.json in {out}", "exit status 0 and left none"],
    "torn": ["result.json must be whole JSON, but is torn", "then rename it"],
    "nan": ["NaN is no JSON", "has the status diverged"],
    "lacks-a-set": ["must hold a 'loss' on every validation set, but lacks wiki"],
    "wrong-set": ["names 'helt'. Did you mean 'held'?"],
    "other-run": [f"must be of run {a_run().run_id}, but is of '{'0' * 32}'"],
    "unknown-key": ["must keep to its schema (raystudy schema result), but metric: Extra inputs"],
    "other-unit": ["must give 'loss' in nats per token, lower is better, but gives 'bits per token'"],
    "sums-disagree": ["value of 'loss' on 'held' must be loss_sum over num_tokens, 3.5, but got 2.25"],
    "twice": ["must hold each number once, but holds 'loss' on 'held' after step 4 again"],
    "exits-3": ["must end with exit status 0, but ended with 3", "first line | the disk of node 7 is gone"],
    "exits-4-after-its-result": ["must end with exit status 0, but ended with 4"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_cause_of_failure_and_leaves_no_record(tmp_path, fault):
    report = make(tmp_path, fault)
    assert report.status == "failed"
    for words in FAULTS[fault]:
        assert words in report.cause
    assert Storage(tmp_path).runs.read(report.run_id) is None
    assert not (out_of(tmp_path) / "result.json").exists(), "the next attempt must not find it"
    assert make(tmp_path).status == "finished"


def test_a_result_becomes_a_record_with_curve_seconds_epochs_and_where_it_came_from(tmp_path):
    (report,) = do_task(a_task(tmp_path, commission(tokens=32, environment={"STUB": "secret"})))
    assert (report.status, report.is_made) == ("finished", True), report.cause
    runs = Storage(tmp_path).runs
    record = runs.read(report.run_id, HELD, run=a_run())
    assert {record.metric("loss", digest) for digest in HELD} == {LOSS}
    assert [row["step"] for row in runs.read_curve(report.run_id)] == [1, 2, 3, 4]
    assert record.result["epochs_per_source"] == [16 / 3], "4 steps of 4 sequences of 8 tokens; 32 tokens hold 3"
    assert 0 < record.device_seconds < 60
    engine = record.result["provenance"]["engine"]
    assert engine["environment"] == ["STUB"]
    assert "secret" not in json.dumps(record.result)
    assert record.result["provenance"]["trainer"] == {"trainer": "stub"}


@pytest.mark.parametrize(("behaviour", "status"), [("diverges", "diverged"), ("no-memory", "out-of-memory")])
def test_a_run_that_diverged_or_ran_out_of_memory_is_done(tmp_path, behaviour, status):
    assert make(tmp_path, behaviour).status == status
    again = make(tmp_path, "exits-3")
    assert (again.status, again.is_made) == (status, False)


def test_losses_after_steps_are_kept_beside_the_record(tmp_path):
    asked = Asked(readings=(Reading(step=2),))
    (report,) = do_task(a_task(tmp_path, commission(), asked=asked))
    assert report.status == "finished", report.cause
    record = Storage(tmp_path).runs.read(report.run_id, HELD, readings=asked.readings)
    assert record.metric("loss", held_out("held"), Reading(step=2)) == LOSS + 1 / 4


def test_a_new_validation_set_starts_the_trainer_again_and_the_first_result_stays(tmp_path):
    first = {held_out("held"): "held"}
    (report,) = do_task(a_task(tmp_path, commission(), held=first))
    path = tmp_path / "runs" / report.run_id / "result.json"
    before = path.read_bytes()
    (again,) = do_task(a_task(tmp_path, commission()))
    assert (again.status, again.is_made) == ("finished", False)
    assert path.read_bytes() == before
    record = Storage(tmp_path).runs.read(report.run_id, HELD)
    assert record.metric("loss", held_out("wiki")) == LOSS
    (done,) = do_task(a_task(tmp_path, commission("exits-3")))
    assert done.status == "finished", "nothing lacks any more, and nothing is started"


def test_losses_that_the_record_holds_stay_alone_when_the_trainer_is_started_again(tmp_path):
    how = commission(command=None, callable="tests.command.callables:drifting")
    (report,) = do_task(a_task(tmp_path, how, held={held_out("held"): "held"}))
    (again,) = do_task(a_task(tmp_path, how))
    assert (again.status, again.is_made) == ("finished", False), again.cause
    record = Storage(tmp_path).runs.read(report.run_id, HELD)
    assert [record.metric("loss", held_out(name)) for name in ("held", "wiki")] == [2.0, 3.0]
    assert verify(Storage(tmp_path)).problems == []


def test_a_set_of_another_version_under_the_same_name_is_measured_anew(tmp_path):
    (report,) = do_task(a_task(tmp_path, commission(), held={held_out("held"): "held"}))
    other = held_out("held, of another year")
    how = commission()
    new = how.model_copy(update={"held": {"held": ExternalPlace(path="", version="held, of another year")}})
    (again,) = do_task(a_task(tmp_path, new, held={other: "held"}))
    assert (again.status, again.is_made) == ("finished", False), again.cause
    assert len((out_of(tmp_path) / "attempts").read_text().splitlines()) == 2
    assert Storage(tmp_path).runs.read(report.run_id, [other]).metric("loss", other) == LOSS


def test_shards_that_were_changed_on_storage_are_told_before_anything_is_started(tmp_path):
    view, validation = make_shards(tmp_path)
    how = commission("exits-3").model_copy(update={"data": None, "held": {}})
    run = a_run(shards=view)
    (started,) = do_task(a_task(tmp_path, how, run, held={validation: "held"}))
    assert "ended with 3" in started.cause
    (tmp_path / "shards" / validation / "document_bytes.npy").write_bytes(b"other")
    _verified.clear()
    (report,) = do_task(a_task(tmp_path, how, run, held={validation: "held"}))
    assert report.damaged == str(tmp_path / "shards" / validation)


def test_losses_of_some_documents_of_our_shards_are_refused(tmp_path):
    view, validation = make_shards(tmp_path)
    how = commission(command=None, callable="tests.command.callables:with_documents")
    how = how.model_copy(update={"data": None, "held": {}})
    (report,) = do_task(a_task(tmp_path, how, a_run(shards=view), held={validation: "held"}))
    assert "must give losses of all 10 documents of 'held', in their order, but gives 2" in report.cause


def of_shards(root, behaviour):
    """The report of a run on shards by a callable of this file."""
    view, validation = make_shards(root)
    how = commission(command=None, callable=f"tests.command.callables:{behaviour}")
    how = how.model_copy(update={"data": None, "held": {}})
    (report,) = do_task(a_task(root, how, a_run(shards=view), held={validation: "held"}))
    return report, validation


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("with_other_tokens", "must give num_tokens of 'held' as its shard has them, but gives 81 instead of 80 for"),
        ("with_other_bytes", "must give num_bytes of 'held' as its shard has them, but gives 201 instead of 200 for"),
    ],
)
def test_tokens_or_bytes_that_are_not_those_of_our_shards_are_refused(tmp_path, behaviour, words):
    report, _ = of_shards(tmp_path, behaviour)
    assert words in report.cause
    assert "document 9 (of 10, from 0)" in report.cause


def test_bytes_of_our_shards_are_known_though_the_trainer_does_not_give_them(tmp_path):
    report, validation = of_shards(tmp_path, "without_bytes")
    assert report.status == "finished", report.cause
    runs = Storage(tmp_path).runs
    record = runs.read(report.run_id)
    assert record.metric("bits-per-byte", validation) == pytest.approx(2 * 800 / 2000 / math.log(2))
    assert runs.read_evaluation(report.run_id, validation, Reading(step=4))["num_bytes"] == [200] * 10


def test_losses_of_documents_are_kept_for_resampling(tmp_path):
    how = commission(command=None, callable="tests.command.callables:with_documents")
    (report,) = do_task(a_task(tmp_path, how, held={held_out("held"): "held"}))
    assert report.status == "finished", report.cause
    runs = Storage(tmp_path).runs
    evaluation = runs.read_evaluation(report.run_id, held_out("held"), Reading(step=4))
    assert (evaluation["loss_sum"], evaluation["num_tokens"], evaluation["num_bytes"]) == ([3.0, 9.0], [2, 3], [8, 8])
    rows = {row["name"]: row["value"] for row in runs.read(report.run_id).result["metrics"]}
    assert rows == {"loss": 2.4, "bits-per-byte": pytest.approx(12 / 16 / 0.6931471805599453)}


def test_a_primary_metric_in_bits_per_byte_needs_bytes_of_sets_that_raystudy_does_not_hold(tmp_path):
    (report,) = do_task(a_task(tmp_path, commission(metric="bits-per-byte")))
    assert report.status == "failed"
    assert "must hold 'bits-per-byte', on which the study's primary metric rests, but lacks it on held" in report.cause


def test_the_schema_that_is_shipped_takes_what_the_stub_writes(tmp_path):
    report = make(tmp_path)
    written = json.loads((out_of(tmp_path) / "result.json").read_text())
    assert written["run_id"] == report.run_id
    jsonschema.validate(written, file_schema("result"), cls=jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "status": "done"}, file_schema("result"))
    assert CommandResult.model_validate_json(json.dumps(written)).status == "finished"
