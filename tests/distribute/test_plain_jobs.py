"""Jobs that Ray's own command started: known, listed, followed and stopped by what their shell line says."""

import argparse
from dataclasses import replace

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.cli.main import main
from raystudy.cli.run import add_arguments
from raystudy.distribute.jobs.entrypoint import WITH_VALUE, read_run
from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server_errors import JobServerError
from raystudy.distribute.jobs.stopping import stop_job
from raystudy.execute.driver_lock import hold_study
from tests.distribute.test_submitting import FakeJobServer

IN_BASH = "bash -c '/x/ray-node.sh wait head 3 && python -m raystudy run t.yaml --stor=/s; echo done.yaml'"
LINES = {
    "python -m raystudy run my-study.yaml --storage s3://B/raystudy": ("my-study.yaml", "", "s3://B/raystudy"),
    "/env/bin/python -m raystudy run --set name=mine --max-runs 4 a/b.yaml --no-wait": ("a/b.yaml", "mine", ""),
    IN_BASH: ("t.yaml", "", "/s"),
    'cd /w && ./.venv/bin/raystudy run "my study.yaml" --storage "$STORAGE"': ("my study.yaml", "", ""),
}


def test_the_study_of_a_plain_job_is_taken_from_its_words_and_no_words_break_that():
    for line, expected in LINES.items():
        found = read_run(line)
        assert (found.file, found.name, found.storage) == expected, line
    for line in ("", "run raystudy x", "echo 'python -m raystudy run x", "raystudy status x", "x raystudy run --set"):
        assert read_run(line) is None, line
    assert read_run(f"{'bash -c ' * 400}'raystudy run x'").file == "x"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = [action for action in parser._actions if action.nargs is None and action.option_strings]
    assert {option for action in options for option in action.option_strings} == set(WITH_VALUE)


@pytest.fixture
def plain_jobs(monkeypatch) -> FakeJobServer:
    """What `raystudy stop` and `logs` find: jobs of Ray's own command, the first without a word on how to stop."""
    first, *_, own = LINES
    jobs = [
        Job("raysubmit_1", "RUNNING", first),
        Job("raysubmit_2", "STOPPED", first, started=9.0),
        Job("x", "RUNNING"),
    ]
    jobs += [Job("raysubmit_3", "RUNNING", own, stop_signal="SIGINT", stop_seconds=60.0)]
    server = FakeJobServer([], "its log\n", there=jobs)
    server.url, server.notes = "http://h:1", ()
    for verb in ("stop", "logs", "jobs"):
        monkeypatch.setattr(f"raystudy.cli.{verb}.open_job_server", lambda _: server)
    return server


def test_a_plain_job_is_listed_followed_and_stopped_by_the_name_of_its_file_and_what_is_told_is_so(
    plain_jobs, monkeypatch, capsys, tmp_path
):
    def told(*words: str, ends: str = "STOPPED") -> tuple[int, str]:
        job = plain_jobs.there[0] if "my-study" in words[1] else plain_jobs.there[-1]
        plain_jobs.looks = [job, replace(job, status=ends)]
        status = main(list(words))
        said = capsys.readouterr()
        return status, said.out + said.err

    monkeypatch.chdir(tmp_path)
    assert "raysubmit_3  my study.yaml" in told("jobs", "--address=http://h:1")[1]
    status, said = told("stop", "my-study")
    assert (status, plain_jobs.stopped) == (0, 1)
    assert "raysubmit_1 was started without RAY_JOB_STOP_SIGNAL" in said
    assert "SIGTERM, and kills it 3 s later" in said
    study = Storage(tmp_path / "s").study("my study")
    with hold_study(study.path, wait=False, say=print):
        (study.path / "study.json").write_text("{}")
        status, said = told("stop", "my study.yaml", "--storage", str(tmp_path / "s"))
        assert (status, "is still named as its driver" in said, "was started without" in said) == (0, True, False)
    assert "--storage URI` tells whether" in told("stop", "raysubmit_3")[1]
    assert told("logs", "my-study.yaml") == (0, "its log\n")
    status, said = told("stop", "study")
    assert (status, "goes by its id, or by the name of the file" in said) == (1, True)
    plain_jobs.there.append(replace(plain_jobs.there[0], id="raysubmit_4"))
    status, said = told("stop", "my-study")
    assert (status, "raysubmit_1, raysubmit_4 run such a file. Give the id" in said) == (2, True)
    assert plain_jobs.stopped == 3
    slow = replace(plain_jobs.there[0], stop_seconds=7.0)
    with pytest.raises(JobServerError, match="must end within 7 s"):
        stop_job(FakeJobServer([slow]), "x", clock=iter(range(0, 9000, 50)).__next__, pause=lambda _: None)
