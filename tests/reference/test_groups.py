"""What is done after an attempt that failed, and how tasks share groups: without any process."""

import sys
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import DamagedError, SpecError, StorageError, UnwritableError
from raystudy.execute.attempts import Attempts
from raystudy.execute.first_cause import Cause, cause_of, first_cause, leave_cause
from raystudy.execute.gpus import check_group_gpus
from raystudy.execute.groups import run_group
from raystudy.execute.local import LocalExecutor
from raystudy.execute.ranks_study import _RanksExecutor
from raystudy.execute.shapes import Shape, by_shape, groups_at_once
from raystudy.execute.tasks import GROUP_RUNS, make_tasks
from raystudy.execute.work import MAX_PREEMPTIONS, RunReport, Task
from raystudy.reference.world import World
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.study import Resources
from raystudy.study.chosen import Chosen
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave
from tests.planted import inputs_of, study_spec
from tests.train.test_training import a_run

pytestmark = pytest.mark.timeout(30)

DIED = Cause("died", "worker 1 of 2 was killed by signal 9", 1)


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
        attempts.failed(DIED)
        assert ids(attempts.left) == ids(task)
    attempts.failed(DIED, 4.0)
    assert [(r.run_id, r.status, r.cause, r.seconds) for r in attempts.reports] == [
        (ids(task)[0], "failed", DIED.words, 4.0)
    ]
    attempts.failed(DIED)
    assert ids(attempts.left) == ids(task)[1:]
    attempts.made(RunReport(ids(task)[1], "finished"))
    assert attempts.left is None
    assert DIED.words in attempts.reports[1].note


def test_workers_lost_before_any_run_began_count_against_the_group_and_all_runs_are_given_up(tmp_path):
    attempts = Attempts(a_task(tmp_path, 50, max_failures=2))
    for _ in range(3):
        assert len(ids(attempts.left)) == 50
        attempts.failed(DIED, 25.0, has_begun=False)
    assert attempts.left is None
    assert {(report.status, report.cause, report.seconds) for report in attempts.reports} == {
        ("failed", DIED.words, 0.5)
    }


def test_a_run_that_begins_or_ends_between_two_failed_starts_clears_their_count(tmp_path):
    attempts = Attempts(a_task(tmp_path, 3, max_failures=1))
    attempts.failed(DIED, has_begun=False)
    attempts.failed(DIED, has_begun=True)
    attempts.failed(DIED, has_begun=False)
    assert not attempts.reports
    attempts.made(RunReport(ids(attempts.left)[0], "finished"))
    attempts.failed(DIED, has_begun=False)
    assert len(attempts.reports) == 1
    attempts.failed(DIED, has_begun=False)
    assert [report.status for report in attempts.reports] == ["finished", "failed", "failed"]


def test_what_a_group_gives_up_is_final_but_not_where_shards_are_made_anew(tmp_path):
    attempts = Attempts(a_task(tmp_path, 2, max_failures=0))
    attempts.failed(cause_of(DamagedError("x", "y"), 0, ids(attempts.left)[0], 0, is_out_of_memory=False))
    attempts.failed(DIED)
    assert [(bool(report.damaged), report.is_final) for report in attempts.reports] == [(True, False), (False, True)]


def test_preemptions_are_counted_apart_and_given_up_on_after_many(tmp_path):
    attempts, preempted = Attempts(a_task(tmp_path, max_failures=0)), Cause("preempted", "ended by signal 15", 0)
    first, second, *_ = ids(attempts.left)
    for _ in range(MAX_PREEMPTIONS):
        attempts.failed(preempted)
    assert attempts.left.preemptions == {first: MAX_PREEMPTIONS}
    assert not attempts.reports
    attempts.failed(DIED)
    assert (attempts.reports[0].status, attempts.reports[0].num_preemptions) == ("failed", MAX_PREEMPTIONS)
    for _ in range(MAX_PREEMPTIONS + 1):
        attempts.failed(preempted)
    assert [(report.run_id, report.cause) for report in attempts.reports[1:]] == [(second, "ended by signal 15")]


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
    for rows in (4, 2):
        attempts.failed(replace(starved, rows=rows))
        sizes.append(DeepSpeedEngine.model_validate_json(attempts.left.group).micro_batch_tokens)
    assert sizes == [32, 16], "four sequences of 16 tokens, then two, then one"
    assert attempts.left.notes == (
        "out of memory with micro-batches of 64 tokens; begun again with micro-batches of 32",
        "out of memory with micro-batches of 32 tokens; begun again with micro-batches of 16",
    )
    attempts.failed(replace(starved, rows=1))
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


def test_what_waits_counts_only_where_the_whole_model_is_chosen():
    study = study_spec()
    wave = make_wave(StudyState(study, inputs_of(study), {}))
    assert wave.extensions
    assert wave.waiting
    whole = Chosen("target").part_of(wave, study)
    assert {run.model for run in whole.todo} == {run.model for run in whole.wanted.values()} == {"target"}
    assert whole.extensions == tuple(item for item in wave.extensions if item[0] == "truth")
    assert whole.waiting == tuple(item for item in wave.waiting if item[0] == "truth")
    part = Chosen("target", lr=whole.todo[0].lr).part_of(wave, study)
    assert part.todo
    assert not part.extensions
    assert not part.waiting
    assert str(Chosen("target", "crawl", 0.1, 3)) == "model target, recipe crawl, learning rate 0.1, seed 3"


def test_a_group_that_cannot_be_started_is_a_report_and_no_exception(tmp_path):
    task = a_task(tmp_path)
    reports = run_group(task, ("/no/such/program",))
    assert [report.status for report in reports] == ["failed"] * 2
    assert all("No such file" in report.cause for report in reports)


def test_ranks_that_end_at_once_are_named_with_their_last_words(tmp_path):
    program = "import sys; sys.exit('planted: nothing works')"
    (report,) = run_group(a_task(tmp_path, 1, max_failures=0), (sys.executable, "-c", program))
    assert report.status == "failed"
    assert report.cause in [f"worker {n} of 2 ended with exit status 1: planted: nothing works" for n in (0, 1)]


def test_a_group_whose_ranks_never_come_to_a_run_is_started_max_failures_times_more_and_no_more(tmp_path):
    count = tmp_path / "starts"
    program = f"import sys; open({str(count)!r}, 'a').write('x'); sys.exit('planted')"
    reports = run_group(a_task(tmp_path, 5, max_failures=1, workers=1), (sys.executable, "-c", program))
    assert [report.status for report in reports] == ["failed"] * 5
    assert count.read_text() == "xx"


def test_what_ended_the_work_is_told_although_the_folder_of_beats_cannot_be_emptied(tmp_path):
    engine = DeepSpeedEngine(kind="deepspeed", workers=2)
    executor = _RanksExecutor(World(0, 2, 0, "cpu"), engine, Storage(tmp_path), "s")

    def work() -> None:
        with executor:
            (executor._folder / "still-there").mkdir()
            raise ValueError("the first cause")

    with pytest.raises(ValueError, match="the first cause"):
        work()
    assert not executor._folder.exists()
