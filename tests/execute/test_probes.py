"""Probes in the ordinary flow: wanted in waves, made by tasks, recorded, scored; and what goes wrong on the way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import raystudy.train.probes.measure
from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.artifacts.weights import read_weights, weights_path
from raystudy.execute.out_of_memory import out_of_memory_words
from raystudy.execute.tasks import make_tasks
from raystudy.execute.work import do_task
from raystudy.specs.run import AlignmentProbe, KeptWeights, ProbeRun, SharpnessProbe, TrainRun
from raystudy.specs.study import Resources
from raystudy.study.comparing import compare_study
from raystudy.study.ngrams import cross_entropy
from raystudy.study.plan import make_plan
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.waves import make_wave
from raystudy.train.evaluation import ValidationDocuments
from raystudy.train.probes.measure import measure_probes
from tests.conftest import make_shards
from tests.planted import curved_loss, planted_state, study_spec

SPACE = {"lr": {"grid": [1e-3, 1e-2], "extend": 0}}
PROTOCOLS = {
    "truth": {"kind": "tuned", "model": "proxy", "space": SPACE, "seeds": [0, 1]},
    "low": {"kind": "reduced-lr", "model": "proxy", "lr": 1e-3, "seeds": [0, 1]},
    "early": {"kind": "gradient-alignment", "model": "proxy", "batches": 2, "seeds": [0, 1]},
    "early-cosine": {
        "kind": "gradient-alignment",
        "model": "proxy",
        "batches": 2,
        "seeds": [0, 1],
        "measure": "cosine",
    },
    "late": {"kind": "gradient-alignment", "model": "proxy", "batches": 2, "at": {"protocol": "truth"}},
    "on-a": {
        "kind": "sharpness",
        "model": "proxy",
        "batches": 2,
        "iterations": 5,
        "at": {"protocol": "low", "recipe": "a"},
    },
    "pairs": {"kind": "likeness", "order": 2},
}


def a_study(**protocols):
    names = [{"name": n, "kind": "text", "dimension": "corpus", "sources": {"s": SOURCE}} for n in "abc"]
    return study_spec(protocols={**PROTOCOLS, **protocols}, recipes=names, comparison={"resamples": 100})


GONE = "0" * 32
SOURCE = {"kind": "embedded", "domains": ["prose"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study after all its waves, on a storage of its own; and which runs each wave held."""
    root = tmp_path_factory.mktemp("probes")
    pairs = [make_shards(root, seed) for seed in range(3)]
    shards = {name: view for name, (view, _) in zip("abc", pairs, strict=True)}
    inputs = StudyInputs(shards, {"p": pairs[0][1], "q": pairs[1][1]}, 64)
    return make_all(a_study(), inputs, root)


def make_all(study, inputs: StudyInputs, root: Path):
    """Make all waves of a study; its state, its storage, and which runs each wave held."""
    storage, waves, records = Storage(root), [], {}
    names = {digest: name for name, digest in inputs.validation.items()}
    while todo := make_wave(state := StudyState(study, inputs, records)).todo:
        waves.append([run.run for run in todo])
        assert len(waves) < 5
        for task in make_tasks(todo, str(root), names, state.study.resources):
            assert {report.status for report in do_task(task)} == {"finished"}
        wanted = make_wave(state).wanted
        readings = {run_id: run.everything_asked.readings for run_id, run in wanted.items()}
        records = storage.runs.read_all({run_id: run.run for run_id, run in wanted.items()}, names, readings)
    return state, storage, waves


@pytest.mark.parametrize("protocol", ["truth", "low"])
def test_a_probe_at_a_step_has_its_run_keep_those_weights_while_it_trains_or_later(made, tmp_path, protocol):
    inputs, root = made[0].inputs, tmp_path / "storage"
    root.mkdir()
    (root / "shards").symlink_to(made[1].root / "shards")
    kept = {name: PROTOCOLS[name] for name in ("truth", "low")}
    probe = {"kind": "sharpness", "model": "proxy", "batches": 2, "iterations": 2, "seeds": [0, 1]}
    study = study_spec(
        protocols={**kept, "mid": {**probe, "at": {"protocol": protocol, "step": 4}}},
        recipes=[recipe.model_dump(mode="json") for recipe in made[0].study.recipes],
        comparison={"resamples": 100},
    )
    state, storage, waves = make_all(study, inputs, root)
    probes = [run for run in waves[1] if isinstance(run, SharpnessProbe)]
    assert len(probes) == 6
    assert {probe.weights.step for probe in probes} == {4}
    assert not make_wave(state).todo
    assert [isinstance(run, TrainRun) for wave in waves[1:] for run in wave].count(True) == 0, "nothing trains twice"
    weights = weights_path(storage.runs.folder(probes[0].weights.run_id), 4)
    values = [state.record(run).metric("sharpness", run.run.shards) for run in wanted_probes(state)]
    # Where the runs were made before anybody asked for the step, they are trained again, and their results stay.
    for path in root.glob("runs/*/eval/*.json"):
        path.unlink()
    for run in probes:
        shutil.rmtree(storage.runs.folder(run.run_id))
    weights.unlink()
    results = {path: path.read_bytes() for path in root.glob("runs/*/result.json")}
    again, _, _ = make_all(study, inputs, root)
    assert [again.record(run).metric("sharpness", run.run.shards) for run in wanted_probes(again)] == values
    assert all(path.read_bytes() == content for path, content in results.items())


def wanted_probes(state):
    return [run for run in protocols_of(state.study)["mid"].demand(state).runs if isinstance(run.run, SharpnessProbe)]


def test_probes_at_a_checkpoint_wait_for_the_run_that_leaves_it(made):
    _, _, waves = made
    first, second = ({type(run.weights) for run in wave if hasattr(run, "weights")} for wave in waves)
    assert (first, second) == ({str}, {KeptWeights})
    empty = StudyState(a_study(), made[0].inputs, {})
    waiting = dict(make_wave(empty).waiting)
    assert (waiting["late"].num_runs, waiting["on-a"].num_runs) == (3 * 2, 3)
    assert "every point of the sweeps of 'truth'" in waiting["late"].reason
    assert "the runs of 'low'" in waiting["on-a"].reason
    assert waiting["late"].flops > 0


def test_two_protocols_that_read_the_same_numbers_share_their_probes(made):
    state = made[0]
    protocols = protocols_of(state.study)
    first, second = ([run.run_id for run in protocols[n].demand(state).runs] for n in ("early", "early-cosine"))
    assert first == second
    values = [protocols[n].scored(state)[0].scores["loss"].values for n in ("early", "early-cosine")]
    assert not np.array_equal(*values)


def test_a_score_is_the_negative_mean_of_what_the_records_say(made):
    state = made[0]
    (scored,) = protocols_of(state.study)["early"].scored(state)
    probes = [r for r in scored.all_runs if (r.recipe, r.seed) == ("b", 1)]
    values = [state.record(run).metric("gradient-alignment", run.run.validation) for run in probes]
    assert scored.scores["loss"].values[1, 1] == pytest.approx(-np.mean(values))
    assert scored.scores["loss/q"].values[1, 1] == pytest.approx(-values[1])
    assert not scored.scores["loss"].noise_free
    assert protocols_of(state.study)["pairs"].scored(state)[0].scores["loss"].noise_free


def test_a_probe_at_a_checkpoint_reads_the_weights_of_its_run(made):
    state, storage, waves = made
    probe = next(run for run in waves[1] if isinstance(run, AlignmentProbe) and run.shards == state.inputs.shards["b"])
    run = next(run for run in waves[0] if isinstance(run, TrainRun) and run.run_id == probe.weights.run_id)
    assert (run.shards, run.seed, run.settings.steps) == (probe.shards, 0, probe.weights.step)
    shard = open_tokens(storage.root, probe.validation)
    documents = {probe.validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    view = open_view(storage.root, probe.shards)
    arrays = read_weights(storage.runs.folder(run.run_id), run.settings.steps)
    (again,) = measure_probes([probe], view, documents, arrays)
    record = state.records[probe.run_id]
    assert {row.name: row.value for row in again.rows} == {n: v for (n, _), v in record.metrics.items()}
    (other,) = measure_probes([probe], view, documents, None)
    assert other.rows[0].value != again.rows[0].value


def test_all_recipes_may_be_measured_at_the_weights_of_one(made):
    sharp = [run for run in made[2][1] if isinstance(run, SharpnessProbe)]
    assert len(sharp) == 3
    assert len({run.weights.run_id for run in sharp}) == 1
    runs = protocols_of(made[0].study)["on-a"].demand(made[0]).runs
    assert {run.recipe for run in runs if isinstance(run.run, TrainRun)} == {"a"}


def test_likeness_is_that_of_the_recipes_view(made):
    state, storage, _ = made
    (scored,) = protocols_of(state.study)["pairs"].scored(state)
    documents = open_tokens(storage.root, state.inputs.validation["q"]).documents()
    value, num_read = cross_entropy(open_view(storage.root, state.inputs.shards["c"]), documents, 2, 2**24)
    assert scored.scores["loss/q"].values[2, 0] == value
    assert state.record(scored.all_runs[-1]).result["num_tokens"] == num_read > 0


def test_probes_that_share_a_gradient_share_a_task(made):
    state, storage, _ = made
    early = protocols_of(state.study)["early"].demand(state).runs
    tasks = make_tasks(early, str(storage.root), {}, Resources())
    assert [len(task.runs) for task in tasks] == [2] * 6  # three recipes and two seeds, two validation sets each


def test_records_say_what_was_measured_in_which_unit_and_by_which_preconditioner(made):
    _, storage, waves = made
    for run in (run for wave in waves for run in wave if isinstance(run, ProbeRun)):
        result = json.loads((storage.runs.folder(run.run_id) / "result.json").read_text())
        assert all(row["unit"] and row["direction"].endswith("is-better") for row in result["metrics"])
        if isinstance(run, AlignmentProbe):
            assert "mean squares of the gradients of 2 batches" in result["probe"]["preconditioner"]
            assert 2 * run.batch_tokens < result["num_tokens"] <= run.num_tokens
            assert {row["dataset_name"] for row in result["metrics"]} <= {"p", "q"}
        if isinstance(run, SharpnessProbe):
            assert result["probe"]["lanczos_steps"] == [5, 5]
    assert verify(storage).problems == []


def test_a_comparison_counts_what_probes_cost_and_the_training_behind_them(made):
    state = made[0]
    entries = {e["candidate"]: e for e in compare_study(state)["comparisons"] if e["metric"] == "loss"}
    assert set(entries) == {"low", "early", "early-cosine", "late", "on-a", "pairs"}
    costs = {name: entry["cost"] for name, entry in entries.items()}
    assert costs["late"]["flops"] > costs["early"]["flops"] / 2 > 0
    assert costs["on-a"]["num_runs"] == 2 + 3
    assert costs["pairs"]["flops"] == 0 < costs["pairs"]["tokens"]
    assert make_plan(state, 1).total.missing == 0


def test_weights_that_were_not_kept_are_a_failed_probe_that_says_so(made):
    state, storage, waves = made
    probe = next(run for run in waves[1] if isinstance(run, SharpnessProbe)).model_copy(update={"seed": 5})
    wanted = next(run for run in make_wave(state).wanted.values() if isinstance(run.run, SharpnessProbe))
    gone = type(wanted)(probe.model_copy(update={"weights": KeptWeights(run_id=GONE, step=3)}), "a", "proxy")
    (task,) = make_tasks([gone], str(storage.root), {}, Resources())
    (report,) = do_task(task)
    assert report.status == "failed"
    assert f"must read the weights of run {GONE} after 3 steps" in report.cause
    torn = type(wanted)(probe, "a", "proxy")
    path = weights_path(storage.runs.folder(probe.weights.run_id), probe.weights.step)
    content = path.read_bytes()
    path.write_bytes(content[:50])
    (task,) = make_tasks([torn], str(storage.root), {}, Resources())
    assert "not kept or are torn" in do_task(task)[0].cause
    path.write_bytes(content)
    assert do_task(task)[0].status == "finished"


def test_a_recipe_whose_run_diverged_is_tied_worst_by_a_probe_of_its_weights():
    tuned = {"a": float("inf"), "b": 2.0, "c": 3.0}
    state = planted_state(curved_loss(tuned, dict.fromkeys("abc", 1e-2)), a_study())
    for name in ("late", "on-a"):
        values = protocols_of(state.study)[name].scored(state)[0].scores["loss"].values
        assert np.isposinf(values[:, 0]).tolist() == [True, name == "on-a", name == "on-a"]
    assert not make_wave(state).waiting


def test_a_probe_without_memory_is_told_by_any_words_for_it_and_with_a_way_out_of_its_own(made, monkeypatch):
    state, storage, waves = made
    probe = next(run for run in waves[1] if isinstance(run, SharpnessProbe)).model_copy(update={"seed": 6})
    wanted = next(run for run in make_wave(state).wanted.values() if isinstance(run.run, SharpnessProbe))

    def starved(*_):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(raystudy.train.probes.measure, "measure_probes", starved)
    (task,) = make_tasks([type(wanted)(probe, "a", "proxy")], str(storage.root), {}, Resources())
    assert do_task(task)[0].status == "out-of-memory"
    assert "the probe's batch_tokens" in out_of_memory_words(wanted, state.study)
    trained = next(run for run in make_wave(state).wanted.values() if isinstance(run.run, TrainRun))
    assert "micro_batch_tokens" in out_of_memory_words(trained, state.study)
