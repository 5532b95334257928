"""The command line as a person meets it: exit codes, JSON alone, one clear message, nothing heavy loaded."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, TINY
from tests.planted import write_study
from tests.specs.test_study_file import STUDY


def test_a_finished_study_run_again_says_so_in_seconds_without_ray(tiny_storage, cli):
    started = time.monotonic()
    done = cli("run", TINY, "--storage", tiny_storage)  # without --local: Ray would be needed if anything were
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert time.monotonic() - started < 5


def test_plan_counts_and_json_stands_alone_on_standard_output(tiny_storage, cli, tmp_path):
    shown = cli("plan", TINY, "--storage", tiny_storage)
    assert "total" in shown.stdout
    plan = json.loads(cli("plan", TINY, "--storage", tiny_storage, "--json").stdout)
    assert plan["total"]["missing"] == 0
    assert plan["total"]["done"] == plan["total"]["wanted"] > 0
    cli("plan", TINY, "--storage", tiny_storage, "--json", tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    assert cli("plan", TINY, "--storage", tiny_storage, "--json", tmp_path / "no" / "plan.json").returncode == 2


def test_a_plan_before_anything_is_built_changes_nothing(cli, tmp_path):
    plan = json.loads(cli("plan", TINY, "--storage", tmp_path / "new", "--json").stdout)
    assert plan["total"]["done"] == 0
    assert plan["total"]["waiting"] > 0
    assert not (tmp_path / "new").exists()


def test_compare_prints_and_keeps_the_comparison_by_path_and_by_name(tiny_storage, cli):
    by_path = json.loads(cli("compare", TINY, "--storage", tiny_storage, "--json").stdout)
    by_name = json.loads(cli("compare", "tiny", "--storage", tiny_storage, "--json").stdout)
    assert by_path == by_name
    assert by_path["format"] == "raystudy-comparison/1"
    assert json.loads((tiny_storage / "studies" / "tiny" / "comparison.json").read_text()) == by_path
    assert by_path["verdict"]["sentence"] in cli("compare", TINY, "--storage", tiny_storage).stdout


def test_comparison_settings_may_change_without_a_run_but_data_may_not(tiny_storage, cli):
    done = cli("compare", TINY, "--storage", tiny_storage, "--set", "comparison.resamples=200", "--json")
    assert json.loads(done.stdout)["resamples"] == 200
    done = cli("compare", TINY, "--storage", tiny_storage, "--set", "training.steps=31")
    assert done.returncode == 2
    assert "has changed since it was last run: training. Run it again first" in done.stderr


def test_report_writes_one_page_and_prints_where(tiny_storage, cli, tmp_path):
    done = cli("report", TINY, "--storage", tiny_storage)
    assert done.returncode == 0, done.stderr
    path = tiny_storage / "studies" / "tiny" / "report.html"
    assert str(path) in done.stdout
    assert path.read_text().startswith("<!DOCTYPE html>")
    cli("report", "tiny", "--storage", tiny_storage, "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["compare", "nothing"], 3, "is not a folder on this machine"),
        (["compare", "nothing.yaml"], 2, "is not there"),
        (["run", str(TINY), "--storage", "{file}/below", "--local"], 3, "the storage must be writable"),
        (["run", str(TINY), "--storage", "{file}", "--local"], 3, "the storage must be writable"),
        (["compare", "x" * 300], 3, "is not a folder on this machine"),
        (["run", str(TINY), "--storage", "ftp://host/x"], 3, "ftp://"),
        (["run", str(TINY), "--workers", "2"], 2, "goes with --local"),
        (["run", str(TINY), "--local", "--address", "x"], 2, "exclude each other"),
        (["run", str(TINY), "--local", "--max-runs", "0"], 2, "--max-runs must be 1 or more, but got 0"),
        (["run", str(TINY), "--local", "--max-device-hours", "0"], 2, "--max-device-hours must be above 0"),
        (["check", str(TINY), "--set", "training.steps=no"], 2, "must be a whole number, but got 'no'"),
        (["check"], 2, "the following arguments are required: STUDY"),
        (["chekc"], 2, "invalid choice"),
    ],
)
def test_bad_input_gives_one_clear_message_and_its_exit_status(cli, tmp_path, arguments, status, message):
    (tmp_path / "file").write_text("")
    filled = [argument.replace("{file}", str(tmp_path / "file")) for argument in arguments]
    done = cli(*filled, RAYSTUDY_STORAGE=str(tmp_path / "storage"))
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_torn_result_is_told_put_aside_and_made_anew(tiny_storage, cli, tmp_path):
    tiny_storage = shutil.copytree(tiny_storage, tmp_path / "copy")
    assert cli("compare", TINY, "--storage", tiny_storage).returncode == 0
    folder = next((tiny_storage / "runs").iterdir())
    (folder / "result.json").write_text('{"format": "raystudy-run/1", "ru')
    looked = cli("compare", TINY, "--storage", tiny_storage)
    assert "counts as missing until the study is run again" in looked.stderr
    assert "No verdict: " in looked.stdout
    assert looked.returncode == 6
    kept = json.loads((tiny_storage / "studies" / "tiny" / "comparison.json").read_text())
    assert kept["missing"] == [], "a complete comparison is not replaced by one with missing runs"
    done = cli("run", TINY, "--storage", tiny_storage, "--local", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "torn or foreign" in done.stderr
    assert "1 runs made" in done.stdout
    assert (folder / "result.json.bad-0").exists()


def test_a_study_without_the_data_it_names_is_told(cli, tmp_path):
    text = STUDY.replace("{kind: embedded, domains: [code]}", "{kind: text, files: [nothing-*.txt]}")
    done = cli("run", write_study(tmp_path, text), "--storage", tmp_path / "storage", "--local")
    assert done.returncode == 4
    assert "nothing-*.txt" in done.stderr
    assert "Traceback" not in done.stderr


_LOADED = """
import sys
from raystudy.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print([name for name in ("torch", "ray", "deepspeed", "tokenizers") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("verb", ["--help", "check", "plan", "status", "compare", "report"])
def test_light_verbs_load_neither_torch_nor_ray(verb, tiny_storage):
    arguments = [verb] if verb == "--help" else [verb, str(TINY)]
    arguments += [] if verb in ("--help", "check") else ["--storage", str(tiny_storage)]
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr


def test_importing_raystudy_loads_nothing_heavy():
    code = "import sys, raystudy; raystudy.load; print([n for n in ('torch', 'ray', 'tokenizers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_exit_codes_are_documented_in_help(cli):
    text = " ".join(cli("--help").stdout.split())
    assert "6 some wanted runs have no result" in text
    assert "8 the launch stopped at its budget" in text


def test_check_looks_at_every_file_that_a_study_names(cli, tmp_path):
    table = STUDY.replace("lr: 1e-4}", "lr: 1e-4}\n  given: {kind: table, file: scores.csv}")
    done = cli("check", write_study(tmp_path, table))
    assert (done.returncode, "scores.csv must be a CSV, TSV or Parquet file" in done.stderr) == (4, True)
    done = cli("check", write_study(tmp_path, STUDY + "tokenizer: nothing.json\n"))
    assert (done.returncode, "nothing.json" in done.stderr) == (4, True)


def test_a_defect_is_one_line_and_a_traceback_on_request():
    code = (
        "import sys, raystudy.cli.check as check\n"
        "check.load_study = lambda *a: 1 / 0\n"
        "from raystudy.cli.main import main\nsys.exit(main(['check', 'x']))\n"
    )
    for environment, shown in (({}, False), ({"RAYSTUDY_TRACEBACK": "1"}, True)):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == shown
        assert shown or "a defect of raystudy: ZeroDivisionError" in done.stderr


def test_names_in_any_script_print_on_a_terminal_that_knows_only_ascii(cli, tmp_path):
    path = write_study(tmp_path, STUDY.replace("name: mine", "name: 数据"))
    done = cli("check", path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "\\u6570" in done.stdout


def own_study(folder):
    """A study over two own files; gives its path."""
    words = [f"word{number} again and again number {number}" for number in range(400)]
    text = STUDY
    for name, domain in (("one", "prose"), ("two", "code")):
        (folder / f"{name}.txt").write_text("\n\n".join(f"{name} {line} " * 12 for line in words))
        source = f"{{kind: text, files: [{name}.txt], holdout: 0.2}}"
        text = text.replace(f"sources: {{s: {{kind: embedded, domains: [{domain}]}}", f"sources: {{s: {source}")
    return write_study(
        folder, text.replace("{kind: embedded, domains: [prose]}", "{kind: text, files: [one.txt], holdout: 0.2}")
    )


def test_a_holdout_that_differs_between_recipe_and_validation_is_told_by_check(cli, tmp_path):
    path = own_study(tmp_path)
    assert cli("check", path).returncode == 0
    path.write_text(path.read_text().replace("[one.txt], holdout: 0.2", "[one.txt], holdout: 0.1", 1))
    done = cli("check", path)
    assert done.returncode == 4
    assert "both must set the same `holdout`" in done.stderr


def test_text_that_has_changed_since_the_runs_is_told(verb, tmp_path):
    path, where = own_study(tmp_path), ("--storage", tmp_path / "storage")
    run = ("run", path, *where, "--local", "--workers", "0")
    assert verb(*run)[0] == 0
    assert "have changed" not in verb("compare", path, *where)[2]
    (tmp_path / "two.txt").write_text((tmp_path / "two.txt").read_text() + "\n\none more document " * 30)
    looked = verb("compare", path, *where)[2]
    assert "the data of recipe 'two' have changed since the runs; these are the old results" in looked
    assert "the data of recipe 'two' have changed since they were frozen" in verb("plan", path, *where)[2]
    status, _, refused = verb(*run)
    assert status == 4
    assert "Restore the text, or run with --resolve-again" in refused
    assert verb(*run, "--resolve-again")[0] == 0
    assert "have changed" not in verb("compare", path, *where)[2]


def test_wrong_paths_of_all_recipes_are_told_together(cli, tmp_path):
    path = own_study(tmp_path)
    path.write_text(path.read_text().replace("one.txt", "eins.txt").replace("two.txt", "zwei.txt"))
    told = cli("check", path).stderr
    assert "eins.txt" in told
    assert "zwei.txt" in told
