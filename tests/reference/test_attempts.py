"""What a failed attempt at a group's run leaves in records and notes: without any process."""

from types import SimpleNamespace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause
from raystudy.execute.rank import _cause
from raystudy.execute.work import about_task
from raystudy.reference import beat, fitting
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from tests.reference.test_groups import a_task

pytestmark = pytest.mark.timeout(30)

STARVED = Cause("out-of-memory", "MemoryError: ", 1)
PREEMPTED = Cause("preempted", "worker 0 of 2 was ended by signal 15", 0)


def test_a_record_tells_how_often_its_run_was_preempted(tmp_path):
    attempts = Attempts(a_task(tmp_path, 1, micro_batch_tokens=32))
    assert "num_preemptions" not in about_task(attempts.left, {}, attempts.left.task_id)
    attempts.failed(PREEMPTED)
    attempts.begun_again({attempts.left.task_id: 1})
    assert about_task(attempts.left, {}, attempts.left.task_id)["num_preemptions"] == 2
    attempts.failed(STARVED)
    provenance = Storage(tmp_path).runs.read(attempts.reports[0].run_id).result["provenance"]
    assert provenance["num_preemptions"] == 2
    assert provenance["notes"] == [f"{PREEMPTED.words}; begun again from its newest checkpoint"]


def test_what_is_halved_is_what_was_computed_at_once_and_not_the_share_of_the_batch(tmp_path):
    attempts = Attempts(a_task(tmp_path, 1, workers=1))  # whose share is four sequences of 16 tokens
    attempts.failed(Cause("out-of-memory", "OutOfMemoryError: ", 0, rows=3))  # what a GPU's memory was said to hold
    assert DeepSpeedEngine.model_validate_json(attempts.left.group).micro_batch_tokens == 32
    assert attempts.left.notes == (
        "out of memory with micro-batches of 48 tokens; begun again with micro-batches of 32",
    )


def test_where_it_is_not_known_what_was_computed_at_once_no_size_is_told(tmp_path):
    attempts = Attempts(a_task(tmp_path, 1, workers=1))
    attempts.failed(STARVED)
    assert attempts.left.notes == ("out of memory; begun again with micro-batches of 32",)


def test_a_rank_that_is_out_of_memory_says_how_much_it_computed_at_once(tmp_path):
    (run,) = a_task(tmp_path, 1).specs()
    beat.begin_run(0)
    assert _cause(MemoryError(), World(0, 2, 0, "cpu"), run).rows == 0
    beat.compute(3)
    cause = _cause(MemoryError(), World(0, 2, 0, "cpu"), run)
    assert (cause.kind, cause.rows) == ("out-of-memory", 3)
    beat.begin_run(1)
    assert beat.rows_at_once() == 0


def test_memory_that_ends_in_a_training_for_readings_leaves_the_result_and_is_told(tmp_path):
    task = a_task(tmp_path, 1, micro_batch_tokens=32)
    (run,), ledger = task.specs(), Storage(tmp_path).runs
    ledger.write_spec(run)
    result = {"status": "finished", "spec": run.model_dump(mode="json"), "metrics": [], "seconds": {"total": 1.0}}
    ledger.write_result(run.run_id, {**result, "provenance": {}})
    attempts = Attempts(task)
    attempts.failed(STARVED)
    (report,) = attempts.reports
    assert (report.status, report.is_final) == ("failed", True)
    assert "trained again for readings, must end finished as it did, but is out-of-memory" in report.cause
    assert ledger.read(run.run_id).status == "finished"


def test_memory_that_ends_while_it_is_measured_is_told_with_what_was_computed_then(tmp_path, monkeypatch):
    class Rehearsal:
        masters = SimpleNamespace(bytes_of_first_step=0)
        close = rehearse = staticmethod(lambda *_: None)

    seen = []

    def bytes_of(action, _):
        action()
        seen.append(beat.rows_at_once())
        return 0

    fakes = {"_is_measured": lambda _: True, "_bytes_of": bytes_of, "_free_bytes": lambda _: 1000}
    for name, fake in {**fakes, "ReferenceTraining": lambda *_, **__: Rehearsal()}.items():
        monkeypatch.setattr(fitting, name, fake)
    monkeypatch.setattr(World, "gather_everywhere", lambda _, value: [value])
    (run,) = a_task(tmp_path, 1).specs()
    fitting.rows_at_once(run, None, DeepSpeedEngine(kind="deepspeed"), World(0, 1, 0, "cpu"))
    assert seen == [1, 1, 2]
