"""Checkpoints of reference runs: on from the newest whole one with the same numbers; by other ranks as asked."""

import json
from pathlib import Path

import numpy as np
import pytest

from raystudy.artifacts.checkpoints import (
    Checkpoint,
    read_checkpoint_file,
    remove_checkpoint,
    remove_step_checkpoints,
    step_checkpoints,
    write_step_checkpoint,
)
from raystudy.artifacts.leftovers import remove_leftovers
from raystudy.train.run import Means, train
from raystudy.train.training import Training
from tests.reference.cases import SGD, SHORT, STAGES, a_case

pytestmark = pytest.mark.timeout(800)  # the first test to run waits for all that two ranks are asked

NAMES = [*(f"stage-{stage}" for stage in STAGES), "bf16-0", "bf16-1", "sgd"]


def read(found: Path, name: str):
    return json.loads((found / f"{name}.json").read_text())


def assert_the_same_run(one, other, rtol: float) -> None:
    assert [row["step"] for row in one["curve"]] == [row["step"] for row in other["curve"]] == list(range(SHORT))
    for name in ("loss", "gradient_norm", "lr"):
        np.testing.assert_allclose([r[name] for r in one["curve"]], [r[name] for r in other["curve"]], rtol=rtol)
    assert one["final_loss"] == pytest.approx(other["final_loss"], rel=rtol)
    assert one["moved"] == pytest.approx(other["moved"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_torn_newest_is_kept_aside_and_the_one_before_goes_on_with_the_same_numbers(found, name):
    whole, resumed = read(found, f"whole-{name}"), read(found, f"resumed-{name}")
    assert read(found, f"kept-{name}") == ["step-00000009.safetensors", "step-00000006.safetensors"]
    assert resumed["made"]["resumed_from_step"] == 6
    assert_the_same_run(resumed, whole, rtol=1e-6)
    note = read(found, f"note-{name}")
    assert "step-00000009.safetensors must be a checkpoint, but" in note
    assert "kept as step-00000009.safetensors.bad-0; went on from step-00000006.safetensors" in note
    assert whole["seconds"]["checkpoint"] > 0
    assert 0.0 == whole["seconds"]["earlier"] < resumed["seconds"]["earlier"] < resumed["seconds"]["total"]


@pytest.mark.parametrize("size", [1, 3])
def test_other_numbers_of_workers_refuse_begin_anew_or_go_on_as_the_study_says(found_by_others, size):
    whole = read(found_by_others, "whole-stage-3")
    said = read(found_by_others, f"error-refuse-{size}")
    assert len(said) == size
    assert f"made by 2 workers and there are {size}. Set engine.workers to 2, or engine.on_other" in said[0]
    assert all("rank 0 of 3 must go on too, but has failed" in message for message in said[1:])
    anew, on = (read(found_by_others, f"{what}-{size}") for what in ("restart", "continue"))
    assert (anew["made"]["resumed_from_step"], on["made"]["resumed_from_step"]) == (0, 9)
    assert f"was made by 2 workers, not {size}; begun anew" in read(found_by_others, f"note-restart-{size}")
    assert read(found_by_others, f"note-continue-{size}").endswith("was made by 2 workers; went on from it")
    for outcome in (anew, on):
        assert_the_same_run(outcome, whole, rtol=1e-5)


@pytest.mark.parametrize("name", ["stage-1", "stage-3", "sgd"])
def test_a_checkpoint_has_the_names_of_trains_and_train_can_go_on_from_it(found, data, name):
    """Whatever the ZeRO stage: masters and optimizer are whole and by name, steps of AdamW included."""
    view, validation = data
    run = a_case(view.digest, SHORT, optimizer=SGD if name == "sgd" else None)
    (path,) = [p for p in step_checkpoints(found / "runs" / name) if "00006" in p.name]
    kept = read_checkpoint_file(path, run.run_id)
    training = Training(run, view, "cpu")
    training.advance(6)
    arrays, _ = training.state()
    own = {key: array for key, array in arrays.items() if not key.startswith("generator/")}
    assert set(kept.arrays) == set(own)
    for key, array in own.items():
        assert kept.arrays[key].dtype == array.dtype
        # AdamW makes steps of the rounding of gradients that are zero, those of the biases of keys.
        np.testing.assert_allclose(kept.arrays[key], array, rtol=1e-3, atol=2e-3 * np.abs(array).max(), err_msg=key)
    training.load_state({**arrays, **kept.arrays}, kept.about["training"])
    training.advance(SHORT)
    whole = train(run, view, validation, means=Means())
    np.testing.assert_allclose([r["loss"] for r in training.curve], [r["loss"] for r in whole.curve], rtol=1e-5)


def a_checkpoint(step: int) -> Checkpoint:
    return Checkpoint("a", step, {"x": np.arange(3.0)}, {"step": step})


def test_checkpoints_by_step_are_found_newest_first_and_only_the_oldest_go(tmp_path):
    for step in (900, 5, 100_000_000, 70):
        write_step_checkpoint(tmp_path, a_checkpoint(step))
    (tmp_path / "checkpoints" / "step-1.txt").write_text("a note of someone's")
    assert [int(path.stem.removeprefix("step-")) for path in step_checkpoints(tmp_path)] == [100_000_000, 900, 70, 5]
    remove_step_checkpoints(tmp_path, all_but_newest=2)
    assert [read_checkpoint_file(path, "a").step for path in step_checkpoints(tmp_path)] == [100_000_000, 900]
    remove_checkpoint(tmp_path)
    assert step_checkpoints(tmp_path) == []
    assert (tmp_path / "checkpoints" / "step-1.txt").exists()


def test_checkpoints_by_step_whose_writer_died_after_the_result_are_removed(tmp_path):
    folders = [tmp_path / "runs" / run_id for run_id in ("done", "going-on")]
    for folder in folders:
        write_step_checkpoint(folder, a_checkpoint(1))
    (folders[0] / "result.json").write_text("{}")
    remove_leftovers(tmp_path, tmp_path / "studies" / "s", ["done", "going-on"])
    assert [len(step_checkpoints(folder)) for folder in folders] == [0, 1]
