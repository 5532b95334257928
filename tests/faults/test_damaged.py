"""What is damaged on storage is told in one line, kept aside and made anew by a launch; a reading verb leaves it."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from raystudy.artifacts.evaluations import evaluation_digest
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.shard_writer import write_tokens
from raystudy.artifacts.shards import open_tokens, shard_folder
from raystudy.artifacts.storage import Storage
from raystudy.errors import UnreadableError
from raystudy.specs.reading import Reading
from tests.conftest import run_cli
from tests.faults.trials import NUM_RUNS, STUDY, comparison, launch, results_on

RESULTS = {
    "torn": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "foreign": lambda _: '{"something": "else"}',
    "newer": lambda text: text.replace("raystudy-run/1", "raystudy-run/2"),
    "another's": lambda text: text.replace('"run_id": "', '"run_id": "0', 1),
}
TOLD = {
    "torn": "is torn or foreign",
    "empty": "is torn or foreign",
    "foreign": "must be a result of format raystudy-run/1",
    "newer": "a newer raystudy wrote it (raystudy-run/2)",
    "another's": "must hold the result of run",
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_of_every_kind_is_kept_aside_and_made_anew_and_nothing_else_runs(storage, reference):
    before = results_on(storage)
    victims = dict(zip(RESULTS, sorted(before), strict=False))
    for kind, run_id in victims.items():
        path = storage / "runs" / run_id / "result.json"
        path.write_text(RESULTS[kind](path.read_text()))
    shards = sorted((storage / "shards").iterdir())
    flip(shards[0] / "manifest.json")
    (shards[1] / "manifest.json").unlink()
    (shards[1] / "other").write_text("")
    (shards[2] / "manifest.json").write_text("{")
    folder = storage / "studies" / "tiny-features"
    (folder / "study.json").write_text('{"study": ')
    contents = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}

    looked = run_cli("plan", STUDY, "--storage", storage)
    assert looked.returncode == 0, looked.stderr
    assert {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()} == contents
    assert all(TOLD[kind] in looked.stderr for kind in victims)

    done = launch(storage)
    assert done.returncode == 0, done.stderr
    for kind, run_id in victims.items():
        (line,) = [line for line in done.stderr.splitlines() if f"{run_id}/result.json" in line]
        assert TOLD[kind] in line
        assert "kept as result.json.bad-0 and made again" in line
        assert (storage / "runs" / run_id / "result.json.bad-0").exists()
    for shard in shards[:3]:
        assert sum(f"{shard} must hold shards" in line for line in done.stderr.splitlines()) == 1, done.stderr
        assert (storage / "shards" / f"{shard.name}.bad-0").is_dir()
        assert shard.is_dir()
    assert "study.json.bad-0" in done.stderr
    after = results_on(storage)
    assert {run: after[run] for run in before if run not in victims.values()} == {
        run: times for run, times in before.items() if run not in victims.values()
    }
    assert len(after) == NUM_RUNS
    assert comparison(storage) == reference


def test_torn_weights_and_evaluations_cost_what_is_needed_and_the_result_stays(storage):
    """A new validation set on a finished study: one run's weights are torn, another's new evaluation."""
    more = ("--set", "validation.flat={source: {kind: synthetic, domain: flat}}")
    before = results_on(storage)
    weights = min(storage.glob("runs/*/weights-500.safetensors"))
    weights.write_bytes(weights.read_bytes()[:40])
    done = launch(storage, *more)
    assert done.returncode == 0, done.stderr
    after = results_on(storage)
    assert [run for run, (_, finished) in after.items() if run in before and finished != before[run][1]] == []
    assert {run for run in before if after[run] != before[run]} == {weights.parent.name}, "trained for its weights"
    assert weights.with_name(f"{weights.name}.bad-0").stat().st_size == 40
    assert weights.stat().st_size > 40
    evaluation = min(storage.glob("runs/*/eval/*.json"))
    whole = evaluation.read_text()
    evaluation.write_text(whole[:50])
    done = launch(storage, *more)
    assert done.returncode == 0, done.stderr
    assert f"{evaluation} must be JSON" in done.stderr
    assert evaluation.read_text() == whole
    assert results_on(storage) == after


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "raystudy-evaluation/2"}', '{"format": "raystudy-evaluation/1"}']
)
def test_a_foreign_evaluation_counts_as_missing(tmp_path, content):
    ledger = RunLedger(tmp_path)
    path = ledger.folder("r") / "eval" / f"{evaluation_digest('v', Reading(step=3))}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert ledger.read_evaluation("r", "v", Reading(step=3)) is None
    assert str(path) in ledger.damage[0]
    assert path.exists()


def test_torn_curves_and_attempts_are_told_and_left_out(tmp_path):
    ledger = RunLedger(tmp_path)
    ledger.write_curve("r", [{"step": 0, "loss": 1.0}])
    (ledger.folder("r") / "curve.jsonl").write_text('{"step": 0}\n{"st')
    ledger.write_attempt("r", {"cause": "first"})
    (ledger.folder("r") / "attempts" / "1.json").write_text("{")
    ledger.write_attempt("r", {"cause": "second"})
    assert ledger.read_curve("r") == []
    assert [attempt["cause"] for attempt in ledger.read_attempts("r")] == ["second"]
    assert ["curve.jsonl" in line or "1.json" in line for line in ledger.damage] == [True, True]


TEXT_STUDY = """
name: text
recipes:
  - {name: one, kind: text, dimension: corpus, sources: {own: {kind: text, files: [one.jsonl], holdout: 0.3}}}
  - {name: two, kind: text, dimension: corpus, sources: {own: {kind: text, files: [two.jsonl], holdout: 0.3}}}
validation:
  held: {source: {kind: text, files: [one.jsonl], holdout: 0.3}}
models:
  small: {kind: decoder, layers: 1, width: 8, heads: 1, context: 16}
training: {steps: 2, batch_tokens: 32}
protocols:
  truth: {kind: tuned, model: small, space: {lr: {grid: [0.01, 0.02, 0.03]}}, seeds: [0]}
  ladder: {kind: lr-ladder, model: small, space: {lr: {grid: [0.01, 0.02, 0.03]}}, seeds: [0]}
truth: truth
"""


def test_damaged_shards_of_text_are_built_anew_with_the_same_digest(tmp_path):
    for name in ("one", "two"):
        texts = [f"{name} line {number} says {number * 7 % 13} and {number * 5 % 11}" * 3 for number in range(80)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    study, storage = tmp_path / "study.yaml", tmp_path / "storage"
    study.write_text(TEXT_STUDY)
    first = launch(storage, "--workers", "0", study=study)
    assert first.returncode == 0, first.stderr
    digests = sorted(path.name for path in (storage / "shards").iterdir())
    before = results_on(storage)
    stored = json.loads((storage / "studies" / "text" / "study.json").read_text())
    view = shard_folder(storage, stored["inputs"]["shards"]["one"])
    tokens = json.loads((view / "manifest.json").read_text())["sources"][0]["parts"][0]["shard"]
    flip(shard_folder(storage, tokens) / "tokens.bin")  # found by a worker when it opens the shard
    held = shard_folder(storage, stored["inputs"]["validation"]["held"])
    (held / "manifest.json").unlink()  # found by the driver
    pointer = min((storage / "built").iterdir())
    pointer.write_text("{")
    again = sorted(before)[:2]
    for run_id in before:
        (storage / "runs" / run_id / "result.json").rename(storage / "runs" / run_id / "kept")
    done = launch(storage, "--workers", "0", study=study)
    assert done.returncode == 0, done.stderr
    assert "tokens.bin has SHA-256" in done.stderr
    for damaged in (tokens, held.name):
        assert (storage / "shards" / f"{damaged}.bad-0").is_dir()
    assert (storage / "built" / f"{pointer.name}.bad-0").read_text() == "{"
    assert sorted(path.name for path in (storage / "shards").iterdir() if ".bad-" not in path.name) == digests
    assert results_on(storage).keys() == before.keys()
    for run_id in again:
        kept = json.loads((storage / "runs" / run_id / "kept").read_text())
        assert Storage(storage).runs.read(run_id).result["metrics"] == kept["metrics"]


@pytest.mark.parametrize("name", ["result.json", "manifest.json"])
def test_what_cannot_be_read_is_no_damage_and_stays(tmp_path, monkeypatch, name):
    """A launch of somebody without rights must not take another's results for torn."""
    digest = write_tokens(tmp_path, [np.array([1], dtype=np.uint16)], [1], 8, 0)
    ledger = RunLedger(tmp_path)
    ledger.mends = True
    ledger.write_result("r", {"status": "finished"})
    before = sorted(tmp_path.rglob("*"))
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(UnreadableError, match=f"{name} cannot be read: Permission denied"):
        ledger.read("r") if name == "result.json" else open_tokens(tmp_path, digest)
    assert sorted(tmp_path.rglob("*")) == before
