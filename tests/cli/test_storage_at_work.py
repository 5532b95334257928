"""`raystudy storage` on runs in progress: checkpoints, what trainers keep, and files that vanish meanwhile."""

import json
import shutil

import numpy as np
import pytest

from raystudy.artifacts import tree, usage, verification
from raystudy.artifacts.checkpoints import Checkpoint, step_checkpoints, write_checkpoint, write_step_checkpoint


def told(verb, storage, action):
    status, out, err = verb("storage", action, "--storage", storage, "--json")
    assert "Traceback" not in err
    return status, json.loads(out)


@pytest.fixture
def run(storage):
    """The folder of a run that has two step checkpoints, one under the other name, and a trainer's own files."""
    folder = sorted((storage / "runs").iterdir())[0]
    arrays = {"weight": np.arange(500, dtype=np.float32), "moment": np.ones(300)}
    for step in (5, 10):
        write_step_checkpoint(folder, Checkpoint(folder.name, step, arrays, {}))
    write_checkpoint(folder, Checkpoint(folder.name, 10, arrays, {}))
    (folder / "work" / "out" / "eval").mkdir(parents=True)
    (folder / "work" / "out" / "eval" / "own.json").write_text("x" * 1000)
    (folder / "work" / "out" / "weights-5.safetensors").write_text("x" * 500)
    return folder


def test_usage_tells_checkpoints_and_what_trainers_keep_from_records(storage, run, verb):
    _, with_them = told(verb, storage, "usage")
    parts = {part: size for part, size in with_them["kinds"]["runs"].items() if part.endswith("_bytes")}
    assert parts.pop("work_bytes") == 1500
    sizes = [path.stat().st_size for path in (*step_checkpoints(run), run / "checkpoint.safetensors")]
    assert parts.pop("checkpoints_bytes") == sum(sizes)
    for name in ("checkpoints", "work"):
        shutil.rmtree(run / name)
    (run / "checkpoint.safetensors").unlink()
    _, without = told(verb, storage, "usage")
    assert parts == {part: size for part, size in without["kinds"]["runs"].items() if part.endswith("_bytes")}


def test_verify_looks_at_every_checkpoint_and_names_those_that_are_damaged(storage, run, verb):
    status, found = told(verb, storage, "verify")
    assert (status, found["problems"], found["checked"]["checkpoints"]) == (0, [], 3)
    newest, oldest = step_checkpoints(run)
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    oldest.write_bytes(oldest.read_bytes()[:-1])
    write_checkpoint(run, Checkpoint("0" * 32, 10, {}, {}))
    status, found = told(verb, storage, "verify")
    assert status == 3
    lines = dict(zip(("newest", "oldest", "other"), found["problems"], strict=True))
    assert f"{newest} must be a checkpoint, but its checksum is not that of its content" in lines["newest"]
    assert f"{oldest} must be a checkpoint, but is torn" in lines["oldest"]
    assert f"is one of run {'0' * 32}" in lines["other"]


def test_files_that_vanish_while_usage_and_prune_look_are_left_out(storage, run, verb, monkeypatch):
    entries = tree._entries

    def vanishing(folder):
        """What was listed is gone before it is looked at: some whole runs, and every second file of the others."""
        found = entries(folder)
        for number, path in enumerate(found):
            if folder == storage / "runs" and path != run and path.name < "4":
                shutil.rmtree(path)
            elif folder.parent == storage / "runs" and path.is_file() and number % 2:
                path.unlink()
        return found

    monkeypatch.setattr(tree, "_entries", vanishing)
    status, found = told(verb, storage, "usage")
    assert status == 0
    assert found["kinds"]["runs"]["bytes"] > 0
    items = usage.inventory(storage)
    for item in items:
        if item.kind == "runs":
            shutil.rmtree(item.path, ignore_errors=True)
            usage.remove(item)


def test_what_vanishes_while_verify_looks_is_no_problem(storage, run, verb, monkeypatch):
    for name in ("_evaluation", "_result", "_checkpoint"):
        real = getattr(verification, name)

        def vanishing(item, path, *others, real=real):
            path.unlink()
            return real(item, path, *others)

        monkeypatch.setattr(verification, name, vanishing)
    status, found = told(verb, storage, "verify")
    assert (status, found["problems"]) == (0, [])
    assert found["checked"]["checkpoints"] == 3
    assert not step_checkpoints(run)
