"""Ids, attaching, following and stopping, on a tiny fake of a job server."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.cli.logs import follow_to_end
from raystudy.distribute.jobs.following import follow
from raystudy.distribute.jobs.job import CONTENT_KEY, STUDY_KEY, Job, find_job, id_prefix
from raystudy.distribute.jobs.moved import changed_fields
from raystudy.distribute.jobs.server_errors import JobExistsError, JobServerError, LostError
from raystudy.distribute.jobs.stopping import ledger_words, stop_job
from raystudy.distribute.jobs.submission import Submission, check_forwarded
from raystudy.distribute.jobs.submitting import decide, submit
from raystudy.errors import SpecError
from raystudy.execute.driver_lock import hold_study
from raystudy.specs.load import load_study
from tests.distribute.test_parcel import project

PREFIX = "raystudy-demo-0123abcd"


@dataclass
class FakeJobServer:
    """A fake of the cluster's job server: a log, and what each look at the job gives."""

    looks: list[Job | Exception]
    log: str = ""
    cuts: list[int] = field(default_factory=list)  # where each socket closes
    there: list[Job] = field(default_factory=list)
    stopped: int = 0

    def tail(self, _job_id: str) -> Iterator[str]:
        end = self.cuts.pop(0) if self.cuts else len(self.log)
        yield from (self.log[start : min(start + 7, end)] for start in range(0, end, 7))

    def logs(self, _job_id: str) -> str:
        return self.log

    def job(self, _job_id: str) -> Job:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look

    def jobs(self) -> list[Job]:
        return self.there

    def stop(self, _job_id: str) -> bool:
        self.stopped += 1
        return True

    def submit(self, _entrypoint: str, job_id: str, **_options: object) -> None:
        if any(job.id == job_id for job in self.there):
            raise JobExistsError("there already")
        self.there.append(Job(job_id, "PENDING"))


def a_job(attempt: int = 1, status: str = "RUNNING", **more: object) -> Job:
    return replace(Job(f"{PREFIX}-a{attempt}", status), **more)  # type: ignore[arg-type]


def test_a_log_is_told_once_and_whole_however_often_the_socket_closes_early():
    log = "".join(f"line {number} of ünïcode\n" for number in range(40))
    looks = [a_job(), a_job(), LostError("away"), LostError("away"), a_job(), a_job(status="FAILED", exit_code=6)]
    server, told, said = FakeJobServer(looks, log, [0, 13, 200, 14, len(log) - 5]), [], []
    ended = follow(server, "x", told.append, said.append, pause=lambda _: None)
    assert "".join(told) == log
    assert (ended.status, ended.exit_status) == ("FAILED", 6)
    assert len(said) == 1
    assert "a job goes on without it" in said[0]
    away, now = FakeJobServer([LostError("away")]), iter(range(0, 10_000, 100))
    with pytest.raises(LostError):
        follow(away, "x", told.append, said.append, clock=now.__next__, pause=lambda _: None)


def test_a_job_that_succeeded_ends_its_follower_with_0_though_its_log_is_gone(monkeypatch):
    server, said = FakeJobServer([a_job(status="SUCCEEDED", exit_code=0)]), []

    def gone(_job_id: str) -> str:
        raise JobServerError("http://h:1 refuses: status code 500")

    monkeypatch.setattr(server, "logs", gone)
    assert follow(server, "x", print, said.append, pause=lambda _: None).exit_status == 0
    assert "the rest of the log of x is gone" in said[0]


@pytest.mark.parametrize(
    ("exit_code", "message", "said"),
    [
        (137, "", "killed (exit status 137)"),
        (None, "Job supervisor actor died.", "Job supervisor actor died. Finished"),
        (6, "x", ""),
    ],
)
def test_what_a_driver_could_not_say_its_follower_says_with_the_way_on(exit_code, message, said, capsys):
    server = FakeJobServer([a_job(status="FAILED", exit_code=exit_code, message=message)])
    assert follow_to_end(server, "x") != 0
    told = capsys.readouterr().err
    assert said in told
    assert ("submit the study again" in told) == bool(said)


def test_a_job_that_waits_for_a_place_says_so_once():
    waits, times = a_job(status="PENDING", message="waiting for resources"), iter(range(0, 1000, 20))
    server, said = FakeJobServer([waits, waits, waits, waits, a_job(status="SUCCEEDED")]), []
    follow(server, "x", print, said.append, clock=times.__next__, pause=lambda _: None)
    assert said == ["x has not started: waiting for resources"]


@pytest.mark.parametrize(
    ("status", "exit_code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", None, 1), ("FAILED", 137, 1), ("FAILED", -9, 1), ("STOPPED", None, 1)],
)
def test_only_a_job_that_succeeded_ends_its_follower_with_0(status, exit_code, expected):
    assert a_job(status=status, exit_code=exit_code).exit_status == expected


def test_an_id_is_that_of_the_study_and_the_storage_and_names_its_attempts(tmp_path):
    here = load_study(project(tmp_path / "here"), ["name=my ünïque study"]).spec
    prefix = id_prefix(here, tmp_path / "here", "s3://b/x")
    assert re.fullmatch(r"raystudy-my-n-que-study-[0-9a-f]{12}-[0-9a-f]{8}", prefix)
    elsewhere = load_study(project(tmp_path / "elsewhere"), ["name=my ünïque study"]).spec
    assert prefix == id_prefix(elsewhere, tmp_path / "elsewhere", "s3://b/x")
    more = load_study(project(tmp_path / "here"), ["name=my ünïque study", "comparison.seed=5"]).spec
    others = {id_prefix(more, tmp_path / "here", "s3://b/x"), id_prefix(here, tmp_path / "here", "s3://b")}
    others.add(id_prefix(here, tmp_path / "here", "s3://b/x", "http://minio:9000"))
    assert len(others | {prefix}) == 4
    old, new = a_job(2, "FAILED", started=5.0), a_job(10, started=9.0, metadata={STUDY_KEY: "my study"})
    other = Job("raysubmit_x", "RUNNING", "python -m raystudy run a.yaml", started=99.0)
    jobs = [other, new, old, Job("demo", "RUNNING", "python train.py")]
    assert find_job(old.id, jobs) == old
    assert find_job("my study", jobs) == new
    running = replace(new, id=f"{PREFIX}-a9", started=3.0)
    assert find_job("my study", [running, replace(new, status="STOPPED")]) == running
    assert find_job("raysubmit_x", jobs) == other
    assert find_job("nope", jobs) is None
    assert (old.study, new.study, other.study) == ("demo", "my study", "a.yaml")
    assert not jobs[-1].is_study


def test_a_running_study_is_attached_to_a_finished_one_left_and_a_failed_one_tried_again():
    def decided(*jobs: Job, complete: bool | None = None) -> tuple[str, str]:
        decision = decide(PREFIX, jobs, "content", lambda: complete)
        return decision.action, decision.job_id.removeprefix(PREFIX)

    done = a_job(9, "SUCCEEDED", metadata={CONTENT_KEY: "content"})
    assert decided() == ("start", "-a1")
    assert decided(a_job(2, "PENDING"), a_job(1, "FAILED")) == ("attach", "-a2")
    assert decided(a_job(9, "FAILED"), a_job(10, "STOPPED")) == ("start", "-a11")
    assert decided(done) == decided(done, complete=True) == ("done", "-a9")
    assert decided(done, complete=False) == ("start", "-a10")
    assert decided(complete=True) == ("done", "-a1"), "this cluster has no job, and the storage shows it"
    assert decided(a_job(3, "FAILED"), complete=True) == ("done", "-a3")
    assert decided(a_job(3), complete=True) == ("attach", "-a3")
    assert decided(replace(done, metadata={CONTENT_KEY: "other files"})) == ("start", "-a10")
    assert decided(Job("raystudy-demo-99999999-a7", "RUNNING")) == ("start", "-a1")


def test_of_two_submissions_at_once_one_wins_and_the_other_attaches(tmp_path):
    server = FakeJobServer([])
    both = [submit(server, Submission(f"{PREFIX}-a1", ("x",), tmp_path), PREFIX) for _ in range(2)]
    assert [decision.action for decision in both] == ["start", "attach"]
    assert {decision.job_id for decision in both} == {f"{PREFIX}-a1"}


def test_stopping_waits_for_the_end_and_says_whether_a_driver_still_holds_the_study(tmp_path):
    server = FakeJobServer([a_job(), a_job(), a_job(status="STOPPED")])
    assert stop_job(server, "x", pause=lambda _: None).status == "STOPPED"
    assert server.stopped == 1
    assert stop_job(server, "x").status == "STOPPED"
    assert server.stopped == 1
    with pytest.raises(JobServerError, match="stop it again"):
        stop_job(FakeJobServer([a_job()]), "x", clock=iter(range(0, 9000, 50)).__next__, pause=lambda _: None)
    storage = Storage(tmp_path)
    assert "cannot be looked at from here" in ledger_words(storage, "demo")
    with hold_study(storage.study("demo").path, wait=False, say=print):
        assert "is still named as its driver" in ledger_words(storage, "demo")
    assert "the ledger is clean" in ledger_words(storage, "demo")
    assert "--storage URI" in ledger_words(None, "demo")


def test_a_study_that_a_job_has_run_is_the_file_here_whatever_folder_it_ran_in(tmp_path):
    ray = tmp_path / "session_x" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0a1b"
    here, there = (load_study(project(folder)).spec for folder in (tmp_path / "laptop", ray))
    assert here != there
    assert changed_fields(there, here, set()) == []
    assert changed_fields(here, there, set()) == ["recipes", "validation", "protocols"]
    other = load_study(project(tmp_path / "laptop", web="net")).spec
    assert "recipes" in changed_fields(there, other, set())
    scattered = here.model_copy(update={"validation": load_study(project(tmp_path / "elsewhere")).spec.validation})
    assert changed_fields(there, scattered, {"protocols"}) == ["validation"]


def test_only_variables_that_are_set_here_go_along(monkeypatch):
    monkeypatch.setenv("SET_HERE", "x")
    assert check_forwarded(["SET_HERE", "SET_HERE"]) == ("SET_HERE",)
    for wrong, said in (("NOT_SET_HERE", "Export it first"), ("A=b", "must be the name"), ("ü", "must be the name")):
        with pytest.raises(SpecError, match=said):
            check_forwarded([wrong])
