"""What is done after an attempt that failed, which worker hangs, how tasks share groups: without any process."""

import json
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import DamagedError, SpecError, StorageError, UnwritableError
from raystudy.execute import hang_watch
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause, cause_of, first_cause, leave_cause
from raystudy.execute.gpus import check_group_gpus
from raystudy.execute.hang_watch import OUTSIDE_STEPS_SECONDS, Watch
from raystudy.execute.local import LocalExecutor
from raystudy.execute.shapes import Shape, by_shape, groups_at_once
from raystudy.execute.tasks import GROUP_RUNS, make_tasks
from raystudy.execute.work import RunReport, Task
from raystudy.reference.beat import Beat
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.study import Resources
from raystudy.study.chosen import Chosen
from raystudy.study.wanted import WantedRun
from tests.planted import study_spec
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(30)

LOST = Cause("lost", "worker 1 of 2 was killed by signal 9", 1)


def a_task(tmp_path, count: int = 2, **engine) -> Task:
    runs = [a_run("0" * 32, seed=seed).model_copy(update={"engine": "deepspeed"}) for seed in range(count)]
    chosen = DeepSpeedEngine(kind="deepspeed", **({"workers": 2} | engine))
    return Task(tuple(run.model_dump_json() for run in runs), str(tmp_path), {}, group=chosen.model_dump_json())


def ids(task: Task) -> list[str]:
    return [run.run_id for run in task.specs()]


def test_a_lost_worker_costs_a_run_its_failures_and_the_next_run_has_its_own(tmp_path):
    task = a_task(tmp_path, max_failures=2)
    attempts = Attempts(task)
    for _ in range(2):
        attempts.failed(LOST)
        assert ids(attempts.left) == ids(task)
    attempts.failed(LOST, 4.0)
    assert [(r.run_id, r.status, r.cause, r.seconds) for r in attempts.reports] == [
        (ids(task)[0], "failed", LOST.words, 4.0)
    ]
    attempts.failed(LOST)
    assert ids(attempts.left) == ids(task)[1:]
    attempts.made(RunReport(ids(task)[1], "finished"))
    assert attempts.left is None
    assert LOST.words in attempts.reports[1].note


def test_preemptions_are_counted_apart_and_have_no_limit(tmp_path):
    attempts = Attempts(a_task(tmp_path, max_failures=0))
    for _ in range(20):
        attempts.failed(Cause("preempted", "worker 0 of 2 was ended by signal 15", 0))
    assert attempts.num_preemptions == 20
    assert not attempts.reports
    attempts.failed(LOST)
    assert attempts.reports[0].status == "failed"


def test_the_same_exception_at_the_same_step_is_not_tried_a_third_time(tmp_path):
    task = a_task(tmp_path, max_failures=9)
    attempts = Attempts(task)
    error = Cause("program", "ValueError: planted", 1, ids(task)[0], 5)
    attempts.failed(error)
    attempts.failed(replace(error, step=6))
    assert not attempts.reports
    attempts.failed(error)
    assert attempts.reports[0].cause == "ValueError: planted"


def test_what_a_person_must_mend_is_not_tried_again(tmp_path):
    task = a_task(tmp_path, 3)
    attempts = Attempts(task)
    attempts.failed(cause_of(StorageError("planted"), 0, ids(task)[0], 0, is_out_of_memory=False))
    assert [report.status for report in attempts.reports] == ["failed"]
    attempts.failed(cause_of(UnwritableError("full"), 0, ids(task)[1], 0, is_out_of_memory=False))
    assert [report.is_unwritable for report in attempts.reports] == [False, True, True]
    assert attempts.left is None


def test_what_fails_before_any_run_began_fails_them_all(tmp_path):
    attempts = Attempts(a_task(tmp_path, 3))
    attempts.failed(cause_of(SpecError("no such package"), 0, "", 0, is_out_of_memory=False))
    assert [report.cause for report in attempts.reports] == ["no such package"] * 3


def test_memory_halves_micro_batches_down_to_one_sequence_then_is_recorded(tmp_path):
    task = a_task(tmp_path, 1, workers=1)
    attempts, starved = Attempts(task), Cause("out-of-memory", "MemoryError: ", 1)
    sizes = []
    for _ in range(2):
        attempts.failed(starved)
        sizes.append(DeepSpeedEngine.model_validate_json(attempts.left.group).micro_batch_tokens)
    assert sizes == [32, 16], "four sequences of 16 tokens, then two, then one"
    assert attempts.left.notes == (
        "out of memory with micro-batches of 64 tokens; begun again with 32",
        "out of memory with micro-batches of 32 tokens; begun again with 16",
    )
    attempts.failed(starved)
    assert attempts.reports[0].status == "out-of-memory"
    assert Storage(tmp_path).runs.read(ids(task)[0]).status == "out-of-memory"


def test_memory_with_a_micro_batch_that_the_study_says_is_recorded_at_once(tmp_path):
    attempts = Attempts(a_task(tmp_path, 1, micro_batch_tokens=32))
    attempts.failed(Cause("out-of-memory", "MemoryError: ", 1))
    assert attempts.reports[0].status == "out-of-memory"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5"), "consequence"),
        (RuntimeError("Connection reset by peer"), "consequence"),
        (ConnectionResetError("x"), "consequence"),
        (RuntimeError("shapes do not match"), "program"),
        (ValueError("the connection closed"), "program"),
        (StorageError("x"), "refused"),
        (OSError(28, "No space left on device", "/x"), "refused"),
        (DamagedError("x", "y"), "refused"),
    ],
)
def test_what_follows_from_a_lost_worker_is_told_from_causes(error, kind):
    assert cause_of(error, 1, "r", 3, is_out_of_memory=False).kind == kind


def test_another_ranks_error_is_a_consequence_although_a_person_must_mend_the_first():
    from raystudy.reference.world import OtherRankError

    assert cause_of(OtherRankError("rank 1"), 0, "r", 0, is_out_of_memory=False).kind == "consequence"


def test_the_first_cause_wins_and_a_consequence_never_hides_it(tmp_path):
    leave_cause(tmp_path, Cause("consequence", "Connection reset by peer", 0))
    assert first_cause(tmp_path).words == "Connection reset by peer"
    assert leave_cause(tmp_path, Cause("program", "ValueError: first", 1))
    assert not leave_cause(tmp_path, Cause("program", "ValueError: second", 0))
    assert first_cause(tmp_path) == Cause("program", "ValueError: first", 1)


class Ranks:
    """Beats of a planted group, and a clock that is set by hand."""

    def __init__(self, folder, size: int = 3) -> None:
        self.folder, self.seconds, self.size = folder, 0.0, size
        self.watch = Watch(folder, size, 10.0, clock=lambda: self.seconds)

    def beat(self, rank: int, beat: Beat, *, is_waiting: bool = False, cpu_seconds: float = 0.0) -> None:
        about = {"beat": [beat.member, beat.step, beat.phase], "cpu_seconds": cpu_seconds, "place": "code.py, line 3"}
        path = hang_watch._beat_path(self.folder, rank)
        word = json.loads(path.read_text())["word"] if path.exists() else 0
        path.write_text(json.dumps({**about, "is_waiting": is_waiting, "word": word}))

    def look(self, *, silent: int | None = None):
        """All ranks but the `silent` one write what they wrote, once more; then one look."""
        for path in self.folder.glob("beat-*.json"):
            if path.name != f"beat-{silent}.json":
                value = json.loads(path.read_text())
                path.write_text(json.dumps({**value, "word": value["word"] + 1}))
        return self.watch.look()


FORWARD, BACKWARD = 1, 2


def test_the_worker_that_is_behind_is_named_once_no_step_was_made_for_too_long(tmp_path):
    ranks = Ranks(tmp_path)
    for rank, phase in enumerate((BACKWARD, FORWARD, BACKWARD)):
        ranks.beat(rank, Beat(0, 7, phase), is_waiting=rank != 1)
    assert ranks.look() is None
    ranks.seconds = 9.0
    assert ranks.look() is None
    ranks.seconds = 11.0
    cause = ranks.look()
    assert (cause.kind, cause.rank, cause.step) == ("hang", 1, 7)
    assert cause.words.startswith("worker 1 of 3 hung in forward of step 7 (code.py, line 3): no step was made for 11")
    assert "worker 0, worker 2 waited" in cause.words
    assert "engine.hang_minutes" in cause.words


def test_where_all_are_in_the_same_phase_the_one_that_is_not_in_a_collective_is_named(tmp_path):
    ranks = Ranks(tmp_path)
    for rank in range(3):
        ranks.beat(rank, Beat(0, 7, FORWARD), is_waiting=rank != 2)
    ranks.look()
    ranks.seconds = 11.0
    assert ranks.look().rank == 2


def test_any_step_of_any_worker_is_a_sign_of_life(tmp_path):
    ranks = Ranks(tmp_path)
    for step in range(5):
        for rank in range(3):
            ranks.beat(rank, Beat(0, step, FORWARD))
        assert ranks.look() is None
        ranks.seconds += 9.0


def test_outside_steps_there_is_more_time_and_work_on_the_processor_counts(tmp_path):
    ranks = Ranks(tmp_path)
    for rank in range(3):
        ranks.beat(rank, Beat(0), is_waiting=rank > 0)
    ranks.look()
    ranks.seconds = OUTSIDE_STEPS_SECONDS - 1
    ranks.beat(0, Beat(0), cpu_seconds=300.0)
    assert ranks.look() is None
    ranks.seconds = 2 * OUTSIDE_STEPS_SECONDS - 2
    assert ranks.look() is None
    ranks.seconds = 2 * OUTSIDE_STEPS_SECONDS
    assert ranks.look().words.startswith("worker 0 of 3 hung at the start of run 1")


def test_a_worker_that_writes_no_more_is_named_wherever_it_was_seen_last(tmp_path):
    ranks = Ranks(tmp_path)
    for rank in range(3):
        ranks.beat(rank, Beat(0))
    assert ranks.look() is None
    ranks.seconds = 9.0
    assert ranks.look(silent=2) is None
    ranks.seconds = 11.0
    cause = ranks.look(silent=2)
    assert cause.words.startswith("worker 2 of 3 hung: it gave no sign of life for 11.0 s (is it stopped")


def test_before_all_workers_have_begun_nobody_hangs(tmp_path):
    ranks = Ranks(tmp_path)
    ranks.beat(0, Beat(0, 3, FORWARD))
    ranks.look()
    ranks.seconds = 1000.0
    assert ranks.look() is None


def wanted(count: int, model: str = "target", engine: str = "deepspeed", **settings) -> list[WantedRun]:
    runs = [a_run("0" * 32, seed=seed, **settings).model_copy(update={"engine": engine}) for seed in range(count)]
    return [WantedRun(run, "balanced", model) for run in runs]


def packs(runs, engine, places: int = 1) -> list[int]:
    tasks = make_tasks(runs, "/s", {}, Resources(), None, {"target": engine}, lambda _: places)
    assert [run for task in tasks for run in task.specs()] == [run.run for run in runs]
    assert all(task.group == engine.model_dump_json() for task in tasks)
    return [len(task.runs) for task in tasks]


def test_short_runs_share_a_group_up_to_ten_minutes_and_fifty_runs_while_no_place_stays_empty():
    engine = DeepSpeedEngine(kind="deepspeed", workers=2)
    assert packs(wanted(60), engine) == [GROUP_RUNS, 10]
    assert packs(wanted(9), engine, places=3) == [3, 3, 3]
    assert packs(wanted(2), engine, places=4) == [1, 1]
    assert packs(wanted(4, steps=20_000), engine) == [1, 1, 1, 1], "over five minutes each, by steps alone"
    assert packs(wanted(4, steps=15_000), engine) == [2, 2]


def test_groups_come_before_tasks_of_one_process_and_larger_shapes_first():
    engines = {
        "small": DeepSpeedEngine(kind="deepspeed", workers=2),
        "large": DeepSpeedEngine(kind="deepspeed", workers=4),
    }
    runs = [*wanted(1, "proxy", "torch"), *wanted(2, "small"), *wanted(2, "large", steps=21)]
    tasks = make_tasks(runs, "/s", {}, Resources(), None, engines)
    shapes = [shape.workers for shape, _ in by_shape(tasks)]
    assert shapes == [4, 2, 0]
    assert [len(task.runs) for _, alike in by_shape(tasks) for task in alike] == [2, 2, 1]


def test_as_many_groups_run_at_once_as_fit_and_at_least_one():
    two = Shape(2, 0, 0.9)
    assert [groups_at_once(two, places, 0) for places in (1, 2, 3, 4, 9)] == [1, 1, 1, 2, 4]
    assert groups_at_once(Shape(4, 1, 0.9), 32, 8) == 2
    executor = LocalExecutor(16, gpus=["0", "1", "5", "6", "7"])
    assert executor._places_for(Shape(2, 1, 0.9)) == ["0,1", "5,6"]
    assert executor.group_places(DeepSpeedEngine(kind="deepspeed", workers=2, gpus_per_worker=1)) == 2


def test_gpus_that_are_not_there_are_refused_with_the_sum():
    study = study_spec()
    target = study.models["target"]
    engine = DeepSpeedEngine(kind="deepspeed", workers=4, gpus_per_worker=1)
    with_groups = study.model_copy(
        update={"models": {**study.models, "target": target.model_copy(update={"engine": engine})}}
    )
    check_group_gpus(with_groups, 4, "this machine")
    with pytest.raises(SpecError, match=r"this machine must have the 4 GPUs .*4 workers x 1 GPU each.* but has 3"):
        check_group_gpus(with_groups, 3, "this machine")


def test_a_launch_may_be_of_one_model_recipe_rate_and_seed():
    (run, other) = wanted(2)
    assert Chosen("target").holds(run)
    assert not Chosen("proxy").holds(run)
    assert Chosen("target", "balanced", 1e-2, 0).holds(run)
    assert not Chosen("target", "balanced", 1e-2, 0).holds(other)
    assert not Chosen("target", lr=2e-2).holds(run)
    assert not Chosen("target", recipe="noisy").holds(run)
