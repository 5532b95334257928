"""A study without Ray: its waves as files for Slurm, and the task of one job. There is no Slurm here: what a job of it
would see (SLURM_ARRAY_TASK_ID, scontrol) is a fake and named so."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from raystudy.artifacts.checkpoints import checkpoint_path
from raystudy.artifacts.storage import Storage
from raystudy.errors import SpecError
from raystudy.execute.run_task import read_tasks
from raystudy.execute.sbatch import NOT_ACCEPTED, JobShape, sbatch_script, submit_script
from raystudy.execute.walltime import read_walltime
from raystudy.execute.work import Task, do_task
from raystudy.study.results import StudyResults
from tests.conftest import FEATURES, ROOT, make_shards
from tests.execute.test_local import without_seconds
from tests.train.test_checkpoints import a_long_run

# The options that our scripts use, with the values that the manual of sbatch allows: schedmd.com/sbatch.html, 25.05.
SBATCH = {
    "job-name": r"[A-Za-z0-9._-]+",
    "array": r"0-\d{1,3}%\d+",  # at most MaxArraySize - 1, which is 1000 by default
    "partition": r"\w+",
    "account": r"\w+",
    "mem": r"\d+[KMGT]",
    "nodes": r"\d+",
    "ntasks": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "time": r"\d{2,}:\d{2}:\d{2}",
    "signal": r"B:USR1@\d+",
    "requeue": None,
    "open-mode": r"append|truncate",
    "output": r"%x-%A_%a\.log",
}


def check_script(path):
    """See that a script is one that bash reads, and that Slurm would."""
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    header, _, body = path.read_text().partition("\n\n")
    assert all(line.startswith("#") for line in header.splitlines()), "Slurm reads options up to the first command"
    assert "#SBATCH" not in body
    given = dict(re.findall(r"^##?SBATCH --([a-z-]+)(?:=(\S+))?$", header, re.MULTILINE))
    assert header.count("SBATCH --") == len(given)
    for option, value in given.items():
        assert re.fullmatch(SBATCH[option] or "", value), f"--{option}={value}"
    return given


def emit(verb, out, storage, *more):
    status, told, said = verb("plan", FEATURES, "--storage", storage, "--emit", "slurm-array", "--out", out, *more)
    assert status == 0, said
    return told


FEW = ("--set", "recipes=[mix-0012, mix-0120, mix-1200]", "--set", "comparison.resamples=100")


def test_waves_made_job_by_job_compare_digit_for_digit_as_a_launch(verb, tmp_path):
    launched, storage, out = tmp_path / "launched", tmp_path / "a storage", tmp_path / "a wave; $(of) 'it'"
    assert verb("run", FEATURES, "--storage", launched, "--local", "--workers", "0", *FEW)[0] == 0
    num_waves = 0
    while True:
        wave = json.loads(emit(verb, out, storage, *FEW, "--limit", "2", "--json"))
        assert wave["format"] == "raystudy-wave/1"
        submit = (out / "submit.sh").read_text()
        if not wave["arrays"]:
            break
        num_waves += 1
        (array,) = wave["arrays"]
        given = check_script(out / array["script"])
        assert f'submit {array["script"]} "$@"' in submit
        assert given["array"] == f"0-{array['num_jobs'] - 1}%2"
        tasks = out / array["tasks_file"]
        assert tasks.stat().st_mode & 0o077 == 0, "commands may have secrets in their environment"
        assert sum(len(each.runs) for each in read_tasks(tasks)) == array["num_runs"] == wave["num_runs"]
        for index in range(array["num_jobs"]):
            options = ("--index", index, "--count", array["per_job"], "--walltime", "01:00:00", "--here")
            status, _, said = verb("run-task", tasks, *options)
            assert status == 0, said
        past = ("--index", array["num_jobs"], "--count", array["per_job"])
        status, _, said = verb("run-task", tasks, *past)
        assert status == 2
        assert f"--index must be one of the {array['num_jobs']} jobs" in said
    assert num_waves >= 2, "what rests on a tuned learning rate comes in a wave of its own"
    assert "sbatch" not in submit.replace("Submits", "")
    check_script_free = subprocess.run(["bash", str(out / "submit.sh")], capture_output=True, timeout=20)
    assert check_script_free.returncode == 0, "an empty wave is submitted by doing nothing"
    assert "nothing is missing that could run now" in emit(verb, out, storage, *FEW)
    one, other = (Storage(root) for root in (launched, storage))
    first, second = (StudyResults(root, root.study("tiny-features")) for root in (one, other))
    assert without_seconds(first.comparison_json) == without_seconds(second.comparison_json)
    assert list(first.runs["run_id"]) == list(second.runs["run_id"])
    before = {path: path.stat().st_mtime_ns for path in storage.glob("runs/*/result.json")}
    assert verb("run-task", tasks, "--index", "0", "--here")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in storage.glob("runs/*/result.json")} == before


def test_a_script_asks_for_gpus_and_quotes_whatever_a_study_or_a_folder_is_called(tmp_path, monkeypatch):
    odd = tmp_path / "it's $(touch planted); `x`"
    odd.mkdir()
    monkeypatch.chdir(odd)
    script = tmp_path / "s.sbatch"
    job = JobShape("s", num_jobs=1000, per_job=7, limit=20)
    script.write_text(sbatch_script("naïve 'study'; $(touch planted)", job, odd / "t.jsonl", 3, 2, 600))
    given = check_script(script)
    assert (given["gpus-per-node"], given["cpus-per-task"]) == ("2", "3")
    assert (given["time"], given["signal"], given["array"]) == ("00:10:00", "B:USR1@120", "0-999%20")
    fake = {**os.environ, "SLURM_ARRAY_TASK_ID": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", str(script)], env=fake, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert f"a file of tasks must be there, but {odd / 't.jsonl'}".encode() in done.stderr
    assert list(odd.iterdir()) == []


@pytest.mark.parametrize(
    ("of_a", "of_b", "status"),
    [
        ("echo job; exit 6", "echo job", 6),
        ("echo job", "echo job", 0),
        ("exit 1", "echo job; exit 6", NOT_ACCEPTED),
        ("echo job; exit 6", "echo error >&2; exit 1", NOT_ACCEPTED),
    ],
)
def test_all_arrays_are_submitted_whatever_becomes_of_one_and_a_refusal_has_a_status_of_its_own(
    tmp_path, of_a, of_b, status
):
    """A fake sbatch, which writes down how it is called."""
    fake, script = tmp_path / "sbatch", tmp_path / "wave" / "submit.sh"
    fake.write_text(f'#!/bin/bash\necho "$PWD" "$@" >> {tmp_path}/called\ncase "$2" in a*) {of_a};; *) {of_b};; esac\n')
    fake.chmod(0o755)
    script.parent.mkdir()
    script.write_text(submit_script("s", ["a.sbatch", "it's b.sbatch"]))
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(script), "--wait"], env=path, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.count("job")) == (status, (of_a + of_b).count("job"))
    called = sorted((tmp_path / "called").read_text().splitlines())
    assert called == [f"{script.parent} --wait {name}" for name in ("a.sbatch", "it's b.sbatch")]
    assert not list(script.parent.glob("[!s]*"))


def test_the_loop_of_the_page_goes_on_while_checkpoints_do_and_stops_when_nothing_does(tmp_path):
    """The very loop, with a raystudy that writes the same wave for ever and an array that comes on three times."""
    loop = (ROOT / "docs" / "slurm.md").read_text().partition("```bash\nbefore=\n")[2].partition("```")[0]
    run = tmp_path / "storage" / "runs" / "r"
    run.mkdir(parents=True)
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave.sh").write_text(f"""submit() {{ echo $((n + 1)) | tee {tmp_path}/n >{run}/spec.json; }}
n=$(cat {tmp_path}/n)
submit one
if [ $n -lt 3 ]; then sleep 0.02; echo $n >{run}/checkpoint.safetensors; fi
""")
    (tmp_path / "n").write_text("0")
    fake = tmp_path / "raystudy"
    fake.write_text(f'#!/bin/bash\n[ "$(cat {tmp_path}/n)" -lt 9 ] && cp {tmp_path}/wave.sh wave/submit.sh\n')
    fake.chmod(0o755)
    text = "before=\n" + loop.replace("/shared/storage", str(tmp_path / "storage"))
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=path, capture_output=True, text=True, timeout=20)
    assert (tmp_path / "n").read_text() == "4\n", "the fourth came on nowhere, so there is no fifth"
    assert done.stderr.startswith("since the wave before no run has ended or failed, and no checkpoint is later")


def test_what_fails_leaves_an_attempt_and_after_three_is_left_out_until_it_is_asked_for(verb, tmp_path, monkeypatch):
    storage, out = tmp_path / "s", tmp_path / "w"
    monkeypatch.setattr("raystudy.execute.feature_work._train", lambda *_: iter([1 / 0]))
    chosen = ("--set", "recipes=[mix-0012, mix-1200]", "--set", "baselines=[]", "--set")
    chosen += (
        "protocols={truth: {kind: tuned, model: target, space: {lr: {grid: [0.1], extend: 0}}, seeds: [0]}, "
        "alignment: {kind: gradient-alignment, model: proxy}}",
    )
    chosen += ("--set", "comparison.contrast=null")
    submits = set()
    for _ in range(3):
        (array,) = json.loads(emit(verb, out, storage, *chosen, "--json"))["arrays"]
        tasks = out / array["tasks_file"]
        submits.add((out / "submit.sh").read_text())
        for index in range(array["num_jobs"]):
            status, _, said = verb("run-task", tasks, "--index", index, "--count", array["per_job"], "--here")
            assert status == 6
            assert "failed: mix-" in said
            assert "ZeroDivisionError" in said
    attempts = [json.loads(path.read_text()) for path in storage.glob("runs/*/attempts/*.json")]
    status, _, said = verb("run-task", tasks, "--index", "0", "--here")
    assert (status, "ZeroDivisionError" in said, "failed: mix-" in said) == (6, True, False), "three times is enough"
    assert len(attempts) == len(list(storage.glob("runs/*/attempts/*.json"))) == 6
    assert len(submits) == 3, "the loop goes on while runs are tried again"
    assert {attempt["run"] for attempt in attempts} == {
        f"{name} | target | lr 0.1 | seed 0" for name in ("mix-0012", "mix-1200")
    }
    status, _, said = verb("plan", FEATURES, "--storage", storage, "--emit", "jsonl", "--out", out, *chosen)
    assert status == 6
    assert "failed 3 times and are not tried again without --retry" in said
    again = json.loads(emit(verb, out, storage, *chosen, "--retry", "--json"))
    assert again["num_runs"] == 2
    (array,) = again["arrays"]
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    for _ in range(2):  # as after a requeue
        verb("run-task", out / array["tasks_file"], "--index", "0", "--count", "9", "--here")
        assert len(list(storage.glob("runs/*/attempts/*.json"))) == 8, "once in this job"
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_JOB_ID", "79")
    for wanted in (8, 8):
        options = ("--index", "0", "--count", "9", "--here")
        verb("run-task", out / array["tasks_file"], *options)
        assert len(list(storage.glob("runs/*/attempts/*.json"))) == wanted, "asked for one more try of each"


def a_task_file(folder, run, storage, validation):
    task = Task((run.model_dump_json(),), str(storage), {validation: "v"}, checkpoint_minutes=None)
    path = folder / "one task.jsonl"
    path.write_text(json.dumps(vars(task)) + "\n")
    return path, task


def same_results(one, other, run, validation):
    first, second = (Storage(root).runs for root in (one, other))
    assert first.read_curve(run.run_id) == second.read_curve(run.run_id)
    assert first.read_evaluations(run.run_id) == second.read_evaluations(run.run_id)
    records = [ledger.read(run.run_id, [validation]) for ledger in (first, second)]
    assert records[0].metrics == records[1].metrics
    assert records[0].result["moved"] == records[1].result["moved"]
    return records[0]


def test_a_job_stops_at_a_checkpoint_by_signal_and_walltime_and_ends_bit_for_bit_as_undisturbed(verb, tmp_path):
    """A fake job of Slurm: the variables that one would have, and a `scontrol` that writes down how it is called."""
    kept, calm = tmp_path / "kept", tmp_path / "calm"
    view, validation = make_shards(kept)
    make_shards(calm)
    run = a_long_run(view, steps=800)
    path, task = a_task_file(tmp_path, run, kept, validation)  # no checkpoints but that of a stop
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "scontrol").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/requeued"\n')
    (fake / "scontrol").chmod(0o755)
    variables = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": str(ROOT)}
    command = f'exec {shutil.which("python3", path=str(ROOT / ".venv/bin"))} -m raystudy run-task "$1" --index '
    job = subprocess.Popen(
        ["bash", "-c", command + '"$SLURM_ARRAY_TASK_ID" --requeue --log-format json', "job", str(path)],
        env={**os.environ, **variables, "PATH": f"{fake}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    folder, ends = Storage(kept).runs.folder(run.run_id), time.monotonic() + 60
    at = checkpoint_path(folder)
    while not (folder / "spec.json").exists() and job.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 11, said
    events = [json.loads(line) for line in said.splitlines()]
    assert [event["event"] for event in events] == ["wave-started", "error", "message"]
    assert "stopped by SIGUSR1: 0 of 1 runs have their results" in events[1]["message"]
    assert (tmp_path / "requeued").read_text() == "requeue 77_0\n"
    assert at.exists()
    status, _, said = verb("run-task", "--task", path, "--here", "--walltime", "00:00:01", "--margin", "9")
    assert status == 11, "eight hundred steps take more than half a second"
    assert "stopped 0.5 s before the walltime of 1 s ends" in said
    assert not list(Storage(kept).runs.folder(run.run_id).glob("attempts/*")), "a stop is no failure"
    assert verb("run-task", "--task", path, "--here")[0] == 0
    assert [report.status for report in do_task(Task(**{**vars(task), "storage": str(calm)}))] == ["finished"]
    record = same_results(kept, calm, run, validation)
    assert record.result["provenance"]["resumed_from_step"] > 1
    assert not at.exists()


def test_files_that_hold_no_tasks_and_wrong_calls_are_told(verb, tmp_path):
    path = tmp_path / "t.jsonl"
    for text in ("no json", "[]", '{"runs": []}', '{"runs": ["{}"], "storage": "x", "validation": {}}', '{"a": 1}'):
        path.write_text(text + "\n")
        status, _, said = verb("run-task", path, "--index", "0")
        assert status == 2, text
        assert f"line 1 of {path} must be a task as `raystudy plan --emit` writes it" in said
    assert "a file of tasks must be there" in verb("run-task", tmp_path / "none", "--index", "0")[2]
    assert "give either TASKS and --index I, or --task FILE" in verb("run-task", path)[2]
    status, _, said = verb("plan", FEATURES, "--storage", tmp_path, "--retry")
    assert (status, "--retry must go with --emit" in said) == (2, True)
    view, validation = make_shards(tmp_path)
    task, _ = a_task_file(tmp_path, a_long_run(view), tmp_path / "nowhere", validation)
    status, _, said = verb("run-task", "--task", task, "--here")
    assert status == 3
    assert "the storage must be the same folder on all nodes" in said
    assert "or a bucket (s3://, gs://)" in said
    assert not (tmp_path / "nowhere").exists()
    times = {"90": 5400, "1:30": 90, "01:00:00": 3600, "2-01:00:00": 176_400, "1-2": 93_600}
    assert {text: read_walltime(text) for text in times} == times
    for text in ("", "0", "an hour", "1:2:3:4", "-5"):
        with pytest.raises(SpecError, match="as Slurm writes it"):
            read_walltime(text)
