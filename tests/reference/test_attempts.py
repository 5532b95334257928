"""What a failed attempt at a group's run leaves in records and notes: without any process."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from raystudy.artifacts.records import failures_among
from raystudy.artifacts.storage import Storage
from raystudy.errors import DamagedError, DataError, MissingPackageError, UnwritableError
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause
from raystudy.execute.losses import Losses
from raystudy.execute.progress import Progress
from raystudy.execute.rank import _cause, make_on_rank
from raystudy.execute.work import RunReport, about_task
from raystudy.reference import beat, fitting
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.study.wanted import WantedRun
from tests.reference.test_groups import a_task

pytestmark = pytest.mark.timeout(30)

STARVED = Cause("out-of-memory", "MemoryError: ", 1)
PREEMPTED = Cause("preempted", "worker 0 of 2 was ended by signal 15", 0)


def test_a_record_tells_how_often_its_run_was_preempted(tmp_path):
    attempts = Attempts(a_task(tmp_path, 1, micro_batch_tokens=32))
    assert "num_preemptions" not in about_task(attempts.left, {}, attempts.left.task_id)
    attempts.failed(PREEMPTED, 20.0)
    attempts.begun_again({attempts.left.task_id: 1})
    assert about_task(attempts.left, {}, attempts.left.task_id)["num_preemptions"] == 2
    attempts.failed(STARVED, 3.0)
    (report,) = attempts.reports
    assert (report.seconds, report.tried_seconds) == (3.0, 20.0)
    run, ledger = WantedRun(TrainRun.model_validate_json(a_task(tmp_path, 1).runs[0]), "r", "m"), Storage(tmp_path).runs
    Losses(ledger, Progress(io.StringIO())).count(run, report)
    (left,) = ledger.read_attempts(report.run_id)
    assert (left["seconds"], failures_among([left])) == (20.0, []), "no failure, but time that its record does not hold"
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


class Alone(World):
    """A group of one rank, without a process group."""

    def broadcast(self, value: Any) -> Any:
        return value


def test_what_goes_wrong_on_rank_0_alone_is_final_where_a_person_must_mend_it(tmp_path, monkeypatch):
    task = a_task(tmp_path, 6, workers=1)
    errors = [
        DataError("the shards hold no tokens"),
        DamagedError("torn", tmp_path / "shards"),
        ValueError("a defect"),
        MissingPackageError("tokenizers must be installed"),
        UnwritableError("the storage is full"),
    ]
    looked: list[str] = []

    def look(run: TrainRun, *_: object) -> None:
        looked.append(run.run_id)
        raise errors[len(looked) - 1]

    monkeypatch.setattr("raystudy.reference.world.join", lambda _: Alone(0, 1, 0, "cpu"))
    monkeypatch.setattr("raystudy.execute.rank.see_what_lacks", look)
    told: list[RunReport] = []
    reports = make_on_rank(task, told.append)
    assert told == reports
    assert [report.cause for report in reports[:5]] == [
        *map(str, errors[:2]),
        "ValueError: a defect",
        *map(str, errors[3:]),
    ]
    assert [report.is_final for report in reports] == [True, False, False, True, True, True]
    assert len(looked) == 5, "a run was begun after the storage could not be written"
    assert [report.is_unwritable for report in reports] == [False] * 4 + [True] * 2
    assert (reports[5].run_id, reports[5].cause) == (task.specs()[5].run_id, "the storage is full")
    attempts = Attempts(task)
    for report in reports:
        attempts.made(report)
    assert attempts.left is None
    assert [report.is_final for report in attempts.reports] == [report.is_final for report in reports]


def test_a_package_that_lacks_where_workers_train_ends_all_runs_of_their_group(tmp_path):
    task = a_task(tmp_path, 3)
    error = MissingPackageError("deepspeed must be installed to train")
    attempts = Attempts(task)
    attempts.failed(_cause(error, World(0, 2, 0, "cpu"), task.specs()[0]))
    assert [(report.cause, report.is_final) for report in attempts.reports] == [(str(error), True)] * 3
