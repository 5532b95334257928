"""What a newcomer relies on: the README's tree, pinned packages, wheel, walk-through, notebook, demo."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.check_file_lengths import too_long
from tests.conftest import ROOT, TINY
from tests.execute.test_local import copy_inputs


def run(*command: object, cwd: Path = ROOT, timeout: float = 110, **environment: str):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def tracked_folders() -> set[str]:
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split("\n")
    folders = {str(Path(name).parent) for name in names if name and (ROOT / name).exists()}
    return {"/".join(folder.split("/")[:2]) for folder in folders} | {folder.split("/")[0] for folder in folders} - {
        "."
    }


def test_the_readmes_tree_names_every_folder_there_is_and_no_other():
    tree = re.search(r"## Tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    shown = {f for f in tracked_folders() if f.split("/")[0] in ("raystudy", "search_spaces") or "/" not in f} - {"."}
    assert named == shown


def test_the_readme_names_the_two_commands_and_only_files_that_are_there():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_every_guarantee_of_the_ledger_names_tests_that_are_there():
    guarantees = (ROOT / "docs" / "ledger.md").read_text().partition("## Guarantees")[2]
    for guarantee in guarantees.split("\n\n**")[1:]:
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", guarantee)
        assert named, guarantee
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_every_guard_names_tests_that_are_there():
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / "docs" / "guards.md").read_text())
    assert len(named) > 5
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_no_file_or_function_is_too_long():
    assert too_long(ROOT) == []


def test_the_constraints_name_the_command_that_makes_them_and_pin_torch():
    text = (ROOT / "constraints.txt").read_text()
    assert "make constraints" in text.splitlines()[0]
    assert "\ntorch==2.13.0\n" in text
    assert all("==" in line for line in text.splitlines() if line and not line.startswith("#"))


@pytest.mark.timeout(300)
def test_a_wheel_without_extras_checks_and_compares_stored_results(tiny_storage, tmp_path):
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, timeout=120)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "fresh", with_pip=False)  # pip works on it from outside, which saves putting it in
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "fresh" / "bin" / "python"]
    pinned = ["-c", ROOT / "constraints.txt", "--quiet", "--disable-pip-version-check", "--no-compile"]
    installed = run(*pip, "install", *pinned, wheel, timeout=250)
    assert installed.returncode == 0, installed.stderr
    packages = run(*pip, "list", "--format", "json", PYTHONPATH="").stdout
    assert "pandas" in packages
    assert {"torch", "ray", "tokenizers"} & {item["name"] for item in json.loads(packages)} == set()
    raystudy = tmp_path / "fresh" / "bin" / "raystudy"
    environment = {"PYTHONPATH": ""}
    assert run(raystudy, "check", TINY, cwd=tmp_path, **environment).returncode == 0
    compared = run(raystudy, "compare", "tiny", "--storage", tiny_storage, "--json", cwd=tmp_path, **environment)
    assert json.loads(compared.stdout)["format"] == "raystudy-comparison/1", compared.stderr
    assert run(raystudy, "report", "tiny", "--storage", tiny_storage, cwd=tmp_path, **environment).returncode == 0
    asked = run(raystudy, "run", TINY, "--local", "--storage", tmp_path / "new", cwd=tmp_path, **environment)
    assert asked.returncode == 7
    assert "raystudy[train]" in asked.stderr


def own_text(folder: Path) -> None:
    """Files as docs/your-own-data.md assumes them: this repository's own pages, tests and sources."""
    (folder / "notes").mkdir(parents=True)
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", *sorted((ROOT / "tests").rglob("test_*.py"))]
    for number, path in enumerate(pages):
        (folder / "notes" / f"{number}.txt").write_text(path.read_text(encoding="utf-8"))
    sources = sorted((ROOT / "raystudy").rglob("*.py"))
    lines = [json.dumps({"text": path.read_text(encoding="utf-8")}) for path in sources if path.stat().st_size > 400]
    (folder / "web.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.timeout(180)
def test_the_walk_through_for_own_data_works_exactly_as_it_stands(tmp_path):
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    own_text(tmp_path / "my-study")
    (tmp_path / "my-study" / "study.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1))
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).splitlines()
    set_up, rest = commands[:2], commands[2:]
    assert set_up == ["make .venv/ready", ". .venv/bin/activate"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run("bash", "-ec", "\n".join(rest), cwd=tmp_path, timeout=170, PATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my-study" / "storage" / "studies" / "my-study" / "report.html").exists()


def test_the_quickstart_notebook_runs_on_the_tiny_study(tiny_storage, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_STUDY", str(tiny_storage / "studies" / "tiny"))
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    NotebookClient(notebook, timeout=90, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_command_behind_make_demo_runs_on_the_tiny_study(tmp_path, tiny_storage, ray_cluster):
    storage = copy_inputs(tiny_storage, tmp_path / "storage", lacking=4)
    study = {"STUDY": str(TINY), "STORAGE": str(storage), "BIN": str(Path(sys.executable).parent)}
    variables = [f"{name}={value}" for name, value in study.items()]
    done = run("make", "-o", ".venv/ready", "demo", *variables, timeout=230, **ray_cluster)
    assert done.returncode == 0, done.stderr
    assert f"report: {storage}/studies/tiny/report.html" in done.stdout
    assert (storage / "studies" / "tiny" / "report.html").exists()
