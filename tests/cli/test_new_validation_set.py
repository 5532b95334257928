"""A new validation set on a finished study costs evaluations of kept weights, no training; `plan` says what cannot."""

import json
import shutil

from tests.conftest import TINY

ADDED = ["--set", "validation.tests={source: {kind: embedded, domains: [tests]}, max_documents: 6}"]


def files(storage, pattern):
    return {path: path.stat().st_mtime_ns for path in (storage / "runs").glob(pattern)}


def test_a_new_validation_set_evaluates_kept_weights_and_trains_nothing(tiny_storage, tmp_path, cli, verb):
    storage = shutil.copytree(tiny_storage, tmp_path / "storage")
    untouched = {pattern: files(storage, pattern) for pattern in ("*/spec.json", "*/result.json", "*/weights-*")}
    evaluations = files(storage, "*/eval/*.json")
    _, plan, _ = verb("plan", TINY, "--storage", storage, *ADDED, "--json")
    plan = json.loads(plan)
    assert (plan["to_evaluate"], plan["to_retrain"]) == (70, [])
    assert plan["total"]["waiting"] == 0, "learning rates are frozen, although the mean is over other sets now"
    assert {row["protocol"]: row["seconds_left"] for row in plan["rows"]}["truth"] == 0.0
    _, shown, _ = verb("plan", TINY, "--storage", storage, *ADDED)
    assert "70 of the missing runs are trained, and lack an evaluation on a validation set" in shown
    done = cli("run", TINY, "--storage", storage, "--local", *ADDED)
    assert done.returncode == 0, done.stderr
    assert "tiny: 0 runs made, 70 evaluated, 0 were done, 70 wanted" in done.stdout
    for pattern, before in untouched.items():
        assert files(storage, pattern) == before
    after = files(storage, "*/eval/*.json")
    assert {path: after[path] for path in evaluations} == evaluations
    assert len(after) == len(evaluations) + 70
    _, out, _ = verb("compare", "tiny", "--storage", storage, "--json")
    assert "loss/tests" in {entry["metric"] for entry in json.loads(out)["comparisons"]}
    assert verb("storage", "verify", "--storage", storage)[0] == 0


def test_plan_names_the_runs_whose_weights_are_gone(tiny_storage, tmp_path, verb):
    storage = shutil.copytree(tiny_storage, tmp_path / "storage")
    truth = [run for run in (storage / "runs").iterdir() if '"width": 32' in (run / "spec.json").read_text()]
    for run in sorted(truth)[:3]:
        next(run.glob("weights-*")).unlink()
    _, plan, _ = verb("plan", TINY, "--storage", storage, *ADDED, "--json")
    plan = json.loads(plan)
    assert (plan["to_evaluate"], len(plan["to_retrain"])) == (70, 3)
    _, shown, _ = verb("plan", TINY, "--storage", storage, *ADDED)
    assert "3 of those would need training again, since their weights are gone" in shown
    _, shown, _ = verb("plan", TINY, "--storage", storage)
    assert "weights" not in shown, "nothing is lacking without the new set"
