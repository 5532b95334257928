"""Launches: stopped at a budget and gone on with, frozen rates and data, what changes when resolved again."""

import io
import json
import shutil
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.errors import BudgetError, DataError, SpecError
from raystudy.execute.budget import Budget, Spending
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import RunReport, do_task
from raystudy.specs.load import load_study
from raystudy.specs.study import Resources
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave
from tests.cli.test_verbs import own_study
from tests.conftest import ROOT
from tests.planted import inputs_of, study_spec

FEATURES = ROOT / "search_spaces" / "tiny-features.yaml"


def launch(storage, path=FEATURES, overrides=(), make_executor=InlineExecutor, **options):
    """One launch in this process; the launch and what it said."""
    told = io.StringIO()
    done = run_study(load_study(path, overrides), Storage(storage), make_executor, Progress(told), **options)
    return done, told.getvalue()


def num_results(storage):
    return len(list(storage.glob("runs/*/result.json")))


@pytest.fixture(scope="module")
def run_features(tmp_path_factory):
    """A storage on which the tiny study of random features has run."""
    storage = tmp_path_factory.mktemp("features") / "storage"
    launch(storage)[0].raise_if_incomplete()
    return storage


def test_a_launch_starts_at_most_so_many_runs_and_the_next_goes_on(tmp_path):
    for most in (7, 50):  # in tasks of several runs
        before = num_results(tmp_path)
        done, _ = launch(tmp_path, budget=Budget(max_runs=most))
        assert num_results(tmp_path) - before == done.num_made == most
        with pytest.raises(BudgetError, match=rf"--max-runs {most}\): {done.num_left} wanted runs"):
            done.raise_if_incomplete()
    done, _ = launch(tmp_path, budget=Budget(max_runs=1000))
    done.raise_if_incomplete()
    assert done.num_made + 57 == done.num_wanted == num_results(tmp_path)
    assert launch(tmp_path, budget=Budget(max_runs=1))[0].is_complete
    assert BudgetError.exit_status == 8


class HourExecutor(InlineExecutor):
    """A mock: every run is made, and is said to have taken a quarter of an hour."""

    def run(self, tasks):
        for task in tasks:
            yield from (replace(report, seconds=900.0) for report in do_task(task))


def test_a_launch_stops_before_its_device_time_is_exceeded(tmp_path):
    """The first runs show what one takes; from then on none is started that would not fit."""
    done, _ = launch(tmp_path, make_executor=HourExecutor, budget=Budget(max_device_hours=5))
    assert done.num_made == 20, "quarters of an hour"
    with pytest.raises(BudgetError, match=r"--max-device-hours 5, of which"):
        done.raise_if_incomplete()


def test_runs_are_let_go_only_while_they_fit_into_the_device_time_left():
    study = study_spec()
    state = StudyState(study, inputs_of(study), {})
    todo = [run for run in make_wave(state).todo if run.model == "target"]
    spending = Spending(Budget(max_device_hours=1), Resources(cpus_per_run=2), num_at_once=4)
    spending.ended(todo[0], 300.0, is_made=True)  # 600 device-seconds of 3,600; five more such runs fit
    sizes = []
    while chosen := spending.affordable(todo, state):
        sizes.append(len(chosen))
        for run in chosen:
            spending.ended(run, 300.0, is_made=True)
    assert sizes == [4, 1]
    assert spending.device_seconds == 3600.0


@pytest.mark.parametrize("wrong", [{"max_runs": 0}, {"max_device_hours": 0.0}, {"max_device_hours": float("nan")}])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(SpecError, match="but got"):
        Budget(**wrong)


def test_failed_tries_count_as_started_runs(tmp_path):
    class Failing(InlineExecutor):
        def run(self, tasks):
            yield from (RunReport(run.run_id, "failed", cause="planted") for task in tasks for run in task.specs())

    done, _ = launch(tmp_path, make_executor=Failing, budget=Budget(max_runs=5))
    assert len(list(tmp_path.glob("runs/*/attempts/*.json"))) == 5
    with pytest.raises(BudgetError):
        done.raise_if_incomplete()


def frozen_rates(storage):
    rules = json.loads((storage / "studies" / "tiny-features" / "frozen.json").read_text())["rules"]
    return sorted(rule["lr"] for rule in rules.values())


def copied(source, target):
    """A copy of a storage that shares no file with it."""
    return shutil.copytree(source, target)


FINER = ["protocols.standard.lr.space.lr.grid=[0.03, 0.3, 0.6, 1.5]"]


def test_a_longer_grid_runs_what_is_new_and_keeps_the_frozen_rate(run_features, tmp_path):
    storage = copied(run_features, tmp_path / "s")
    assert frozen_rates(storage) == [0.06, 0.3]
    # Planted as if the sweep had once said so: the records say 0.3.
    path = storage / "studies" / "tiny-features" / "frozen.json"
    path.write_text(path.read_text().replace('"lr": 0.3,', '"lr": 1.5,'))
    done, told = launch(storage, overrides=FINER)
    assert "standard: the LR is frozen at 1.5; resolved anew it would be" in told
    assert frozen_rates(storage) == [0.06, 1.5]
    assert done.num_made == 3, "the new point of the baseline's sweep, three seeds"
    done, told = launch(storage, overrides=FINER, again=True)
    assert "standard: LR 1.5 -> 0." in told
    assert "what this wants besides: " in told
    assert "nothing is deleted" in told
    assert len(frozen_rates(storage)) == 2
    assert launch(storage, overrides=FINER)[0].num_made == 0
    assert "resolved again: nothing changes" in launch(storage, overrides=FINER, again=True)[1]


def test_a_launch_that_finds_everything_done_leaves_what_is_frozen_untouched(run_features, tmp_path):
    storage = copied(run_features, tmp_path / "s")
    path = storage / "studies" / "tiny-features" / "frozen.json"
    before = path.stat().st_mtime_ns
    assert launch(storage)[0].num_made == 0
    assert path.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def run_own(tmp_path_factory):
    """A study over two own files in `work`, run on `storage`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "work").mkdir()
    path = own_study(folder / "work")
    # Not extended, so that it is known how many runs a change costs.
    path.write_text(path.read_text().replace("grid: [1e-3, 1e-2]", "grid: [1e-3, 1e-2], extend: 0"))
    launch(folder / "storage", path)[0].raise_if_incomplete()
    return folder


def test_text_that_has_changed_is_refused_with_its_cost_until_it_is_restored_or_resolved_again(run_own, tmp_path):
    folder = copied(run_own, tmp_path / "s")
    text, path, storage = folder / "work" / "two.txt", folder / "work" / "study.yaml", folder / "storage"
    old, count = text.read_text(), num_results(storage)
    text.write_text(old + "\n\n" + "one more document " * 30)
    with pytest.raises(DataError, match=r"the text of recipe 'two' now gives other shards.* 3 runs, .*--resolve-again"):
        launch(storage, path)
    assert num_results(storage) == count
    text.write_text(old)
    assert launch(storage, path)[0].num_made == 0
    text.write_text(old + "\n\n" + "one more document " * 30)
    done, told = launch(storage, path, again=True)
    assert "the data of recipe 'two': new shards" in told
    assert "what this wants besides: 3 runs" in told
    assert done.num_made == 3
    assert launch(storage, path)[0].num_made == 0, "the new text is the frozen one now"


def test_a_recipe_whose_spec_has_changed_is_new_and_is_not_refused(run_own, tmp_path):
    folder = copied(run_own, tmp_path / "s")
    path = folder / "work" / "study.yaml"
    path.write_text(path.read_text().replace("name: two, kind: text", "name: zwei, kind: text"))
    assert launch(folder / "storage", path)[0].num_made == 0, "a renamed recipe has the same data"
    path.write_text(path.read_text().replace("files: [two.txt], ", "files: [two.txt], max_bytes: 9000, "))
    assert launch(folder / "storage", path)[0].num_made == 3


def test_on_another_machine_without_the_files_the_frozen_shards_are_used(run_own, tmp_path):
    folder = copied(run_own, tmp_path / "elsewhere")
    for name in ("one.txt", "two.txt"):
        (folder / "work" / name).unlink()
    done, told = launch(folder / "storage", folder / "work" / "study.yaml")
    assert done.num_made == 0
    assert "the files of one, two, p cannot be read here; the shards on the storage are used" in told
    with pytest.raises(DataError, match=r"two\.txt"):
        launch(tmp_path / "empty", folder / "work" / "study.yaml")
