"""A foreign plain-torch script, on shards it reads itself, goes through check, plan, run, kill, resume and report."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from raystudy.specs.command import PLACEHOLDERS, CommandEngine
from raystudy.specs.command_result import CommandResult
from raystudy.specs.load import load_study
from tests.command.studies import write_study
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "your-own-trainer.md").read_text()
TRAINER = Path(__file__).with_name("foreign_trainer.py")
WORDS = ["the", "of", "a", "tree", "river", "stone", "light", "under", "over", "green", "small", "old", "sees", "and"]


def own_text(folder: Path) -> None:
    """Two texts, of which one has an order that can be learned."""
    draw = np.random.default_rng(0)
    for name, most in (("plain", 3), ("mixed", len(WORDS))):
        lines = []
        for _ in range(300):
            places = np.cumsum(draw.integers(1, most + 1, size=30)) % len(WORDS)
            lines.append(" ".join(WORDS[place] for place in places) + f" {draw.integers(10**9)}.")
        (folder / f"{name}.txt").write_text("\n\n".join(lines))


def foreign_study(folder: Path) -> Path:
    shutil.copy(TRAINER, folder / "trainer.py")
    own_text(folder)
    names = ("spec", "data", "out", "lr", "seed", "steps")
    command = ["{python}", "trainer.py", *[part for name in names for part in (f"--{name}", f"{{{name}}}")]]
    engine = {"kind": "command", "command": command, "version": "commit-1", "grace_seconds": 0.5}
    model = {"kind": "decoder", "layers": 1, "heads": 1, "context": 16, "engine": engine}

    def source(name):
        return {"kind": "text", "files": [f"{name}.txt"], "holdout": 0.1}

    study = {
        "name": "foreign-torch",
        "recipes": [
            {"name": name, "kind": "text", "dimension": "corpus", "sources": {name: source(name)}}
            for name in ("plain", "mixed")
        ],
        "validation": {"held": {"source": source("plain"), "max_documents": 10}},
        "models": {"large": {**model, "width": 8}},
        "training": {"steps": 20, "batch_tokens": 128, "schedule": {"kind": "constant"}},
        "protocols": {
            "truth": {"kind": "tuned", "model": "large", "space": {"lr": {"grid": [0.02, 0.06], "extend": 0}}},
            "standard": {"kind": "standard-lr", "model": "large", "lr": {"absolute": 0.02}},
        },
        "truth": "truth",
        "comparison": {"resamples": 100},
    }
    write_study(folder / "study.yaml", study)
    return folder / "study.yaml"


def trainers(storage: Path) -> list[int]:
    """Processes that work for a run of this storage."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(storage).encode() in arguments and b"trainer.py" in arguments:
            found.append(int(folder.name))
    return found


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_a_foreign_trainer_is_planned_run_killed_resumed_compared_and_reported(tmp_path, cli):
    study, storage = foreign_study(tmp_path), tmp_path / "storage"
    assert cli("check", study).returncode == 0
    planned = cli("plan", study, "--storage", storage, "--json")
    assert json.loads(planned.stdout)["total"]["wanted"] == 4, planned.stderr
    slow = {**os.environ, "FOREIGN_STEP_SECONDS": "1"}
    command = [sys.executable, "-m", "raystudy", "run", str(study), "--storage", str(storage), "--local"]
    driver = subprocess.Popen(command, cwd=ROOT, env=slow, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(storage.glob("runs/*/work/out/checkpoint.pt"))) == 2)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_for(lambda: not trainers(storage), 20)  # though nobody was left to end them but their guards
    assert not list(storage.glob("runs/*/result.json"))
    done = cli("run", study, "--storage", storage, "--local")
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in storage.glob("runs/*/result.json")]
    resumed = sorted(result["provenance"]["trainer"]["started_after_step"] for result in results)
    assert len(results) == 4
    assert resumed[:2] == [0, 0]
    assert resumed[2] > 0, "both that were killed went on from their own checkpoints"
    assert all(result["provenance"]["engine"]["version"] == "commit-1" for result in results)
    rows = {row["name"]: row["value"] for row in results[0]["metrics"]}
    assert rows["bits-per-byte"] > 0
    assert rows["unigram-loss"] > 0
    for verb in ("compare", "report"):
        told = cli(verb, study, "--storage", storage)
        assert told.returncode == 0, told.stderr
    comparison = json.loads((storage / "studies" / "foreign-torch" / "comparison.json").read_text())
    (entry,) = [entry for entry in comparison["comparisons"] if entry["metric"] == "loss"]
    assert entry["cost"]["device_seconds"] > 0
    assert comparison["contradictions"] == []
    assert cli("storage", "verify", "--storage", storage).returncode == 0


def test_the_page_shows_the_reader_that_this_trainer_reads_shards_with():
    (shown,) = re.findall(r"```python\n(import itertools.*?)```", PAGE, re.DOTALL)
    functions = shown.split("\n\n\n")[1:]
    assert len(functions) == 2
    for function in functions:
        assert function.strip() in TRAINER.read_text()


def test_the_study_and_the_engines_that_the_page_shows_are_right(tmp_path):
    study, *engines = [YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    assert len(engines) == 3
    for engine in [None, *engines]:
        if engine is not None:
            study["models"]["proxy"]["engine"] = engine["engine"]
        write_study(tmp_path / "study.yaml", study)
        assert load_study(tmp_path / "study.yaml").spec.command_of("proxy") is not None


def test_the_result_that_the_page_shows_keeps_to_the_schema():
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert CommandResult.model_validate_json(shown).metrics[1].step == 500


def test_the_page_names_every_placeholder_and_every_field():
    for name in PLACEHOLDERS:
        assert f"`{{{name}}}`" in PAGE
    for name in CommandEngine.model_fields:
        assert f"`{name}`" in PAGE or name == "kind"
