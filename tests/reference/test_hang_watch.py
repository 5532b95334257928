"""Which worker hangs, by what ranks have written and by the looker's clock: without any process."""

import json
import time
from dataclasses import replace

import pytest
from upath import UPath

from raystudy.execute import hang_watch
from raystudy.execute.first_cause import first_cause, leave_cause
from raystudy.execute.hang_watch import OUTSIDE_STEPS_SECONDS, Watch, has_begun
from raystudy.reference import beat
from raystudy.reference.beat import Beat

pytestmark = pytest.mark.timeout(30)


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


@pytest.mark.parametrize("is_remote", [False, True])
def test_the_worker_that_is_behind_is_named_once_no_step_was_made_for_too_long(tmp_path, is_remote):
    folder = UPath(f"memory://beats/{tmp_path.name}") if is_remote else tmp_path
    ranks = Ranks(folder)
    assert not has_begun(folder)
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
    assert has_begun(folder)
    assert leave_cause(folder, cause)
    assert not leave_cause(folder, replace(cause, rank=2)), "the first cause counts"
    assert first_cause(folder) == cause


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


def test_a_worker_that_never_comes_to_its_group_is_named(tmp_path):
    ranks = Ranks(tmp_path)
    ranks.beat(0, Beat(0))
    ranks.beat(2, Beat(0))
    ranks.look()
    ranks.seconds = OUTSIDE_STEPS_SECONDS - 1
    assert ranks.look() is None
    ranks.seconds = OUTSIDE_STEPS_SECONDS + 1
    assert ranks.look().words == "worker 1 of 3 did not come to the group for 10 minutes"


def test_a_group_has_begun_once_any_rank_is_past_the_start_of_its_first_run(tmp_path):
    ranks = Ranks(tmp_path)
    assert not hang_watch.has_begun(tmp_path)
    ranks.beat(0, Beat(0))
    (tmp_path / "beat-1.json").write_text("cut sho")
    assert not hang_watch.has_begun(tmp_path)
    ranks.beat(2, Beat(0, 0, FORWARD))
    assert hang_watch.has_begun(tmp_path)


def test_a_rank_tells_its_first_step_at_once_however_long_the_interval_is(tmp_path, monkeypatch):
    monkeypatch.setattr(beat, "_now", Beat())
    with hang_watch.WatchThread(tmp_path, 0, 1, 3600.0):
        beat.tell(0, "data")
        deadline = time.monotonic() + 4.0  # the interval is five seconds
        while not hang_watch.has_begun(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert hang_watch.has_begun(tmp_path)
