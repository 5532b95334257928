"""`raystudy status`: how far a study is, from another process, from its storage alone."""

import io
import json
import re
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.execute.budget import Budget
from raystudy.execute.driver_lock import find_holder, hold_study
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import RunReport, do_task
from raystudy.specs.load import load_study
from tests.conftest import ROOT

FEATURES = ROOT / "search_spaces" / "tiny-features.yaml"

_LOADED = """
import sys
from typing import ClassVar
from raystudy.cli.main import main
status = main(sys.argv[1:])
print([name for name in ("torch", "ray", "tokenizers") if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


def look(*arguments):
    """`raystudy status` in a fresh interpreter, which says last on standard error what heavy things it loaded."""
    command = [sys.executable, "-c", _LOADED, "status", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
    return done.stdout


class FailingForTarget(InlineExecutor):
    """A mock: the target's runs fail, the others are made; `look` is called once, in the middle."""

    seen: ClassVar[list[str]] = []

    def run(self, tasks):
        for number, task in enumerate(tasks):
            if number == len(tasks) // 2 and not self.seen:
                self.seen.append(look("tiny-features", "--storage", task.storage, "--json"))
            if task.model == "target":
                yield from (RunReport(run.run_id, "failed", cause="planted") for run in task.specs())
            else:
                yield from do_task(task)


@pytest.fixture(scope="module")
def half_run(tmp_path_factory):
    """A storage on which five runs are made, then those of the target's first task fail; what was seen meanwhile."""
    storage = tmp_path_factory.mktemp("status") / "storage"
    loaded = load_study(FEATURES)
    run_study(loaded, Storage(storage), InlineExecutor, Progress(io.StringIO()), budget=Budget(max_runs=5))
    progress = Progress(io.StringIO())
    FailingForTarget.seen.clear()
    run_study(loaded, Storage(storage), FailingForTarget, progress, budget=Budget(max_runs=20))
    return storage, FailingForTarget.seen[0]


def test_while_a_study_runs_another_process_sees_who_runs_it_and_counts(half_run):
    seen = json.loads(half_run[1])
    assert seen["format"] == "raystudy-status/1"
    assert "process" in seen["driver"]
    assert seen["done"] == {"finished": 5}
    assert seen["missing"] + 5 == seen["wanted"]
    assert any("runs wait for the sweep" in line for line in seen["waiting"])


def test_failures_are_told_with_their_first_cause_and_how_often_they_were_tried(half_run):
    storage, _ = half_run
    status = json.loads(look(FEATURES, "--storage", storage, "--json"))
    assert status["driver"] is None
    assert status["seconds_left"] is None
    assert status["failed"]
    for failed in status["failed"]:
        assert (failed["num_attempts"], failed["first_cause"]) == (1, "planted")
        assert "| target |" in failed["run"]
    text = look("tiny-features", "--storage", storage)
    assert text.startswith("tiny-features: no driver is running\n")
    assert "failed once: " in text
    assert "more (--json lists them all)" in text
    assert 0 < status["tokens_done"] < status["tokens_wanted"]


def test_time_left_is_what_is_left_at_the_speed_of_the_driver_that_runs(half_run):
    storage, _ = half_run
    folder = Storage(storage).study("tiny-features")
    folder.write_progress({"flops_per_second": 1e6})
    with hold_study(folder.path, wait=False, say=print):
        first = json.loads(look("tiny-features", "--storage", storage, "--json"))["seconds_left"]
        folder.write_progress({"flops_per_second": 2e6})
        second = json.loads(look("tiny-features", "--storage", storage, "--json"))["seconds_left"]
    assert first == pytest.approx(2 * second)
    assert first > 0
    (folder.path / "progress.json").write_text("torn {")
    with hold_study(folder.path, wait=False, say=print):
        assert "time left: not known yet" in look("tiny-features", "--storage", storage)


def test_looking_on_changes_nothing_and_a_study_that_was_never_run_is_told(half_run, cli):
    storage, _ = half_run
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("*")}
    look("tiny-features", "--storage", storage)
    assert {path: path.stat().st_mtime_ns for path in storage.rglob("*")} == before
    done = cli("status", "nothing", "--storage", storage)
    assert (done.returncode, "there must be a study in" in done.stderr) == (3, True)
    assert cli("status", "nothing.yaml", "--storage", storage).returncode == 2


def test_a_study_is_held_only_while_its_driver_is_there(tmp_path):
    assert find_holder(tmp_path) is None
    with hold_study(tmp_path, wait=False, say=print):
        assert find_holder(tmp_path) is not None
    assert find_holder(tmp_path) is None


def test_the_notebooks_lines_on_the_page_read_a_study_that_is_half_made(half_run, monkeypatch):
    page = (ROOT / "docs" / "laptop-to-cluster.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("RAYSTUDY_STORAGE", str(half_run[0]))
    names: dict[str, Any] = {}
    exec(lines.replace("my-cluster-study", "tiny-features"), names)
    results = names["results"]
    counts = results.runs.status.value_counts()
    assert set(counts.index) == {"finished", "missing"}
    assert counts["finished"] == len(list(half_run[0].glob("runs/*/result.json"))) == 5
    assert results.runs.loc[results.runs.status == "missing", "seconds"].isna().all()
    assert set(results.curves.run_id) == set(results.runs[results.runs.status == "finished"].run_id)
    assert not results.scores.empty
    assert results.verdict.startswith("No verdict: no score from")
