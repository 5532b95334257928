"""What a launch says as JSON lines: every line is an object, no event is lacking, and text tells the same."""

import datetime
import io
import json
from typing import ClassVar

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.cli.main import main
from raystudy.errors import SpecError
from raystudy.execute.local import InlineExecutor
from raystudy.execute.log_events import log_format
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.work import RunReport, failed_reports
from raystudy.specs.load import load_study
from tests.conftest import ROOT

FEATURES = ROOT / "search_spaces" / "tiny-features.yaml"
ABOUT_RUN = {
    "time",
    "level",
    "event",
    "study",
    "run_id",
    "recipe",
    "model",
    "lr",
    "seed",
    "status",
    "seconds",
    "message",
}


class OneFails(InlineExecutor):
    """A mock: the runs of one recipe fail, the others are made."""

    def run(self, tasks):
        for report, recipe in self._reports_of(tasks):
            is_planted = recipe == "mix-1200"
            yield RunReport(report.run_id, "failed", seconds=1.0, cause="planted") if is_planted else report

    def _reports_of(self, tasks):
        for task in tasks:
            yield from ((report, task.recipe) for report in super().run([task]))


class Dies(InlineExecutor):
    """A mock: the worker of the first task that has several runs dies once."""

    died: ClassVar[list[int]] = []  # how many runs each of its tasks had that could not be made

    def run(self, tasks):
        for task in tasks:
            if len(task.runs) > 1 and not self.died:
                self.died.append(len(task.runs))
                yield from failed_reports(task, "the worker died: its words")
            else:
                yield from super().run([task])


def said(storage, chosen, executor=OneFails):
    stream = io.StringIO()
    few = ["recipes=[mix-0012, mix-1200]", "protocols.truth.seeds=[0]", "protocols.ladder.seeds=[0]"]
    loaded = load_study(FEATURES, few)
    run_study(loaded, Storage(storage), executor, Progress(stream, chosen=chosen))
    return stream.getvalue().splitlines()


def test_every_line_is_an_event_none_is_lacking_and_text_tells_the_same(tmp_path):
    events = [json.loads(line) for line in said(tmp_path / "json", "json")]
    times = [datetime.datetime.fromisoformat(event["time"]) for event in events]
    assert times == sorted(times)
    assert all(time.utcoffset() == datetime.timedelta(0) for time in times)
    assert {event["study"] for event in events if event["event"] != "message"} == {"tiny-features"}
    assert events[0]["event"] == "launch-started"
    assert events[0]["storage"] == str(tmp_path / "json")
    ended = [event for event in events if event["event"] == "run-ended"]
    assert all(event.keys() >= ABOUT_RUN for event in ended if event["model"] == "target")
    made = {event["run_id"] for event in ended if event["status"] == "finished"}
    assert made <= {path.parent.name for path in (tmp_path / "json").glob("runs/*/result.json")}
    waves = [event for event in events if event["event"] == "wave-started"]
    assert sum(event["total"] for event in waves) == len(ended)
    failed = [event for event in ended if event["status"] == "failed"]
    assert failed
    assert {(event["level"], event["cause"], event["recipe"]) for event in failed} == {("error", "planted", "mix-1200")}
    lines = [line for line in said(tmp_path / "text", "text") if " s left" not in line and " s in all" not in line]
    silent = ("launch-started", "progress")
    told = [e["message"] for e in events if e["event"] not in silent and (e["event"] != "run-ended" or "cause" in e)]
    assert [line.strip() for line in lines] == told


def test_a_workers_death_is_one_line_that_counts_its_runs_and_as_json_an_event_of_each(tmp_path, monkeypatch):
    shown = {}
    for chosen in ("text", "json"):
        monkeypatch.setattr(Dies, "died", [])
        shown[chosen] = said(tmp_path / chosen, chosen, Dies)
        (num_runs,) = Dies.died
    events = [json.loads(line) for line in shown["json"]]
    failed = [event for event in events if event["event"] == "run-ended" and event["status"] == "failed"]
    assert len({event["run_id"] for event in failed}) == len(failed) == num_runs > 1
    assert {event["cause"] for event in failed} == {"the worker died: its words"}
    assert all(event["message"].startswith("failed: mix-") for event in failed)
    first = failed[0]["message"].removeprefix("failed: ").removesuffix(": the worker died: its words")
    (line,) = (line for line in shown["text"] if line.startswith("failed: "))
    told = "the worker died: its words; each is tried at most 3 times"
    assert line == f"failed: {num_runs} runs of a task (first: {first}): {told}"


def test_the_verb_ends_in_json_too_and_the_variable_stands_in_for_the_option(tmp_path, capsys, monkeypatch):
    run = ["run", str(FEATURES), "--storage", str(tmp_path), "--local", "--workers", "0", "--max-runs", "2"]
    monkeypatch.setenv("RAYSTUDY_LOG_FORMAT", "json")
    assert main(run) == 8
    shown = capsys.readouterr()
    assert shown.out == ""
    events = [json.loads(line) for line in shown.err.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["launch-ended", "error"]
    assert events[-2]["made"] == 2
    assert (events[-1]["error"], events[-1]["exit_status"]) == ("BudgetError", 8)
    assert main([*run, "--log-format", "text"]) == 8
    assert capsys.readouterr().err.splitlines()[-1].startswith("raystudy: stopped at the budget")
    monkeypatch.setenv("RAYSTUDY_LOG_FORMAT", "xml")
    with pytest.raises(SpecError, match="RAYSTUDY_LOG_FORMAT must be text or json, but is 'xml'"):
        log_format()
