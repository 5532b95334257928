"""`raystudy submit` as a whole, on a fake of the job server or without any: budget, limits, finished, dry runs."""

import json
import re
import shlex
import shutil
import types
from pathlib import Path

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.cli.main import main
from raystudy.distribute.jobs.job import Job
from raystudy.distribute.jobs.server import _job
from raystudy.distribute.jobs.submitting import is_complete_on
from raystudy.errors import UnreadableError
from raystudy.specs.load import load_study
from tests.conftest import FEATURES, TINY

TIGHT = ("--set", "budget={device_hours: 1e-9}")


class Server:
    """A fake of the job server: takes what is submitted."""

    notes, url = (), "http://h:1"

    def __init__(self) -> None:
        self.there: list[Job] = []

    def jobs(self) -> list[Job]:
        return self.there

    def submit(self, entrypoint: str, job_id: str, **_options: object) -> None:
        self.there.append(Job(job_id, "RUNNING", entrypoint))


@pytest.fixture
def server(monkeypatch, tmp_path) -> Server:
    found = Server()
    monkeypatch.setattr("raystudy.cli.submit.open_job_server", lambda _: found)
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def said(capsys):
    """Run a verb in this process: exit status, and all that it said."""

    def call(verb: str, study: object, *words: object) -> tuple[int, str]:
        status = main([verb, str(study), *map(str, words)])
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return call


def test_a_budget_is_left_to_the_driver_where_the_storage_is_not_seen_and_checked_where_it_is(
    server, said, tmp_path, monkeypatch
):
    unseen, seen = tmp_path / "not" / "mounted", tmp_path / "seen"
    seen.mkdir()
    status, told = said("submit", FEATURES, "--storage", unseen, *TIGHT)
    assert (status, len(server.there)) == (0, 1), told
    assert told.count(f"note: what {unseen} holds cannot be looked at from here, so that the budget was not") == 1
    assert not unseen.exists()
    status, told = said("submit", FEATURES, "--storage", seen, *TIGHT)
    assert (status, len(server.there)) == (8, 1), told
    assert "estimated at" in told
    assert "`raystudy submit STUDY --max-runs 4` measures the speed" in told
    monkeypatch.setattr("raystudy.execute.budget_check._read", lambda *_: (_ for _ in ()).throw(UnreadableError("no")))
    assert said("submit", FEATURES, "--storage", "s3://bucket/x", *TIGHT)[0] == 0
    for storage, is_told in ((unseen, True), (seen, False)):
        status, told = said("plan", FEATURES, "--storage", storage)
        assert (status, f"{storage} is not a folder on this machine: this counts as if nothing" in told) == (0, is_told)


def test_the_limits_of_a_launch_go_along_and_the_budget_is_asked_about_them(server, said, tmp_path, features_source):
    limits = ("--max-runs", 4, "--max-device-hours", 0.5, "--log-format", "json", "--resolve-again")
    status, told = said("submit", FEATURES, "--storage", tmp_path, *TIGHT, *limits)
    assert status == 0, told
    words = shlex.split(server.there[0].entrypoint)
    sent = ["--max-runs=4", "--max-device-hours=0.5", "--log-format=json", "--resolve-again"]
    assert words[-4:] == sent
    assert words[:4] == ["python", "-m", "raystudy", "run"]
    status, told = said("submit", FEATURES, "--storage", tmp_path, *TIGHT)
    assert (status, "it goes on as it was submitted (python -m raystudy run" in told) == (0, True)
    status, told = said("submit", FEATURES, "--storage", tmp_path, *TIGHT, *limits)
    assert (status, "it goes on as it was" in told) == (0, False)
    assert said("submit", FEATURES, "--storage", tmp_path, "--max-runs", 0)[0] == 2
    spent = shutil.copytree(features_source, tmp_path / "spent")
    shutil.rmtree(sorted(spent.glob("runs/*"))[0])
    status, told = said("submit", FEATURES, "--storage", spent, *TIGHT, "--max-runs", 1)
    assert (status, "but no run does. Raise the budget" in told) == (8, True), told
    for folder in sorted(spent.glob("runs/*"))[:40]:
        shutil.rmtree(folder)
    told = said("plan", FEATURES, "--storage", spent, "--json")[1]
    cost = json.loads(told[told.index("{") :])["spending"]
    assert cost["is_measured"]
    spent_hours, missing = (cost[name]["device_hours"] for name in ("spent", "missing"))
    budget = ("--set", f"budget={{device_hours: {spent_hours + missing / 2}}}")
    for hours, expected in ((missing * 0.9, 8), (missing / 4, 0)):
        status, told = said("submit", FEATURES, "--storage", spent, *budget, "--max-device-hours", hours)
        assert status == expected, told
        assert ("what --max-device-hours" in told) is (expected == 8)


def test_a_finished_study_is_told_by_the_storage_though_this_cluster_has_no_job_of_it(
    server, said, tmp_path, features_source
):
    status, told = said("submit", FEATURES, "--storage", features_source)
    assert (status, server.there) == (0, []), told
    assert "tiny-features has finished: every wanted run is done, and nothing was sent" in told
    assert f"read it: raystudy compare tiny-features --storage {features_source}" in told
    assert not (tmp_path / "cache").exists()
    assert said("submit", FEATURES, "--storage", features_source, "--resolve-again")[0] == 0
    assert said("submit", FEATURES, "--storage", features_source, "--set", "comparison.seed=7")[0] == 0
    assert [job.id[-3:] for job in server.there] == ["-a1", "-a1"]
    less = shutil.copytree(features_source, tmp_path / "less")
    shutil.rmtree(next(less.glob("runs/*")))
    assert "submitted raystudy-" in said("submit", FEATURES, "--storage", less)[1]


def test_a_dry_run_needs_no_cluster(said, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    where = ("--storage", tmp_path, "--dry-run")
    for address, url in ((), "http://HOST:8265"), (("--address", "http://127.0.0.1:1"), "http://127.0.0.1:1"):
        status, told = said("submit", FEATURES, *where, *address, "--driver-on", "workers")
        assert status == 0, told
        assert re.search(r"^to send: \d+ files, [\d,]+ bytes", told, re.MULTILINE)
        assert "note: no cluster told whether a job runs already, so that this is as for a first attempt: " in told
        line = shlex.split(re.search(r"^the same by Ray's own command: (.*)$", told, re.MULTILINE)[1])
        assert line[:5] == ["ray", "job", "submit", "--address", url]
        assert line[line.index("--submission-id") + 1].endswith("-a1")
        assert "HEAD-NODE-ID" in " ".join(line)
        assert Path(line[line.index("--working-dir") + 1]).is_dir()
    assert said("submit", FEATURES, *where, "--address", "ray://h:1")[0] == 2, "what is wrong stays wrong"
    assert said("submit", FEATURES, *where[:2], "--address", "http://127.0.0.1:1")[0] == 1


def test_how_a_job_is_stopped_is_read_from_its_environment():
    about = {"submission_id": "x", "status": "RUNNING", "entrypoint": "", "message": "", "metadata": None}
    about |= {"start_time": None, "end_time": None, "driver_exit_code": None}
    kinds = {
        (60.0, "SIGINT"): {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_JOB_STOP_SIGNAL": "SIGINT"}},
        (3.0, "SIGTERM"): {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "***"}},
    }
    for expected, environment in kinds.items():
        job = _job(types.SimpleNamespace(**about, runtime_env=environment))
        assert (job.stop_seconds, job.stop_signal) == expected
    assert _job(types.SimpleNamespace(**about, runtime_env=None)).stop_seconds == 3.0


def test_verbs_on_a_storage_that_is_not_mounted_say_so_and_plan_takes_a_name(said, tmp_path, features_source):
    gone = tmp_path / "not" / "mounted"
    for verb in ("status", "compare", "report", "plan"):
        status, told = said(verb, "tiny-features", "--storage", gone)
        assert (status, f"{gone} is not a folder on this machine: it is not mounted here" in told) == (3, True), verb
    status, told = said("pull", "tiny-features", tmp_path / "dest", "--storage", gone)
    assert (status, "it is not mounted here" in told) == (3, True)
    by_name, by_file = (said("plan", study, "--storage", features_source) for study in ("tiny-features", FEATURES))
    assert by_name == by_file
    assert by_name[0] == 0
    status, told = said("plan", "another", "--storage", features_source)
    assert (status, "there must be a study in" in told) == (3, True)


def test_completeness_is_read_from_the_storage_where_it_can_be(tiny_storage, tmp_path):
    tiny, storage = load_study(TINY), Storage(tiny_storage)
    assert is_complete_on(storage, tiny) is True
    for changed in ("name=another", "comparison.seed=5", "protocols.truth.seeds=[0, 1, 2, 3, 4, 5, 6]"):
        assert is_complete_on(storage, load_study(TINY, [changed])) is False, changed
    assert is_complete_on(Storage(tmp_path / "not here"), tiny) is None
    assert is_complete_on(storage, load_study(TINY, ["track={mlflow: {tracking_uri: 'http://h:1'}}"])) is None
