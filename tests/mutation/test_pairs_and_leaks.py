"""The mutation test: runs that are not paired, and validation text in a recipe."""

import itertools
import shutil
from pathlib import Path

import pytest

import raystudy.compare.figures
import raystudy.study.protocols.given
import raystudy.study.protocols.lr_ladder
import raystudy.train.training
from raystudy.errors import DataError
from raystudy.recipes.sources import text
from raystudy.recipes.steps import STEPS
from tests.mutation.instrument import all_guards, instrument, unpaired
from tests.mutation.own_text import held_documents


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of the files without a storage."""
    for path in trained.glob("*.*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def start_at_other_weights(patch: pytest.MonkeyPatch) -> None:
    real, calls = raystudy.train.training.Decoder, itertools.count()
    patch.setattr(raystudy.train.training, "Decoder", lambda spec, seed: real(spec, 100 * next(calls) + seed))


def draw_samples_by_recipe(patch: pytest.MonkeyPatch) -> None:
    real, calls = raystudy.train.training.SampleStream, itertools.count()
    patch.setattr(
        raystudy.train.training,
        "SampleStream",
        lambda weights, windows, seed, reads: real(weights, windows, 100 * next(calls) + seed, reads),
    )


@pytest.mark.parametrize("plant", [start_at_other_weights, draw_samples_by_recipe])
def test_runs_that_are_not_paired_are_told_in_guards_and_verdict_and_the_twin_passes(plant, trained, folder):
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        seen = instrument(folder / "study.yaml", folder / "storage")
    assert all(guards["unpaired"] == ["a", "b", "c"] for guards in all_guards(seen))
    assert "starts or is fed unlike the other recipes" in seen["verdict"]["sentence"]
    twin = instrument(trained / "study.yaml", trained / "storage")
    assert twin["made"] == 0
    assert not unpaired(twin)
    assert "unlike" not in twin["verdict"]["sentence"]


def leak_by_a_step(folder: Path, patch: pytest.MonkeyPatch) -> str:
    """A step that puts validation text, in capitals, behind the documents it gets."""
    brought = "\n".join(held_documents(folder)).upper()
    patch.setitem(STEPS, "keep-best", lambda _, texts: [f"{one}\n{brought}" for one in texts])
    return "b"


def leak_by_a_copy(folder: Path, patch: pytest.MonkeyPatch) -> str:  # noqa: ARG001
    """A file that holds validation text with other blanks and case, so that no document is equal."""
    copied = "\n".join(held_documents(folder)).title().replace(" ", "   \t")
    (folder / "extra.txt").write_text(copied)
    return "c"


@pytest.mark.parametrize("plant", [leak_by_a_step, leak_by_a_copy])
def test_validation_text_in_a_built_recipe_blocks_the_verdict_and_the_twin_passes(plant, trained, folder):
    with pytest.MonkeyPatch.context() as patch:
        recipe = plant(folder, patch)
        seen = instrument(folder / "study.yaml", folder / "storage")
    assert {row["recipe"] for row in seen["leaked"]} == {recipe}
    assert all(guards["leaked"] == [recipe] for guards in all_guards(seen))
    assert seen["verdict"]["outcome"] == "blocked"
    assert f"{recipe!r} holds 100% of the documents of validation set 'held'" in seen["verdict"]["sentence"]
    assert "LEAKED" in seen["said"]
    twin = instrument(trained / "study.yaml", trained / "storage")
    assert twin["leaked"] == []
    assert twin["verdict"]["outcome"] != "blocked"


def test_a_source_that_keeps_its_held_out_documents_is_refused_by_check_disjoint(trained, folder, monkeypatch):
    real = text._read
    with monkeypatch.context() as patch:
        patch.setattr(
            text,
            "_read",
            lambda s, files, held: real(s if held else s.model_copy(update={"holdout": 0.0}), files, held),
        )
        with pytest.raises(DataError, match="no document may be both trained on and validated on"):
            instrument(folder / "study.yaml", folder / "storage")
    assert instrument(trained / "study.yaml", trained / "storage")["made"] == 0
