"""A run's id: what moves it and what does not."""

import pytest
from pydantic import ValidationError

from raystudy.specs.base import canonical_json, digest
from raystudy.specs.presets import PRESETS
from raystudy.specs.run import ResolvedDecoder, TrainRun, read_run
from raystudy.specs.schedules import WarmupStableDecay
from raystudy.specs.space import LearningRateAxis, LogGrid
from raystudy.specs.training import AdamW, RunSettings, TrainingOverride, TrainingSettings


def a_run(**changes) -> TrainRun:
    model = ResolvedDecoder(kind="decoder", layers=1, width=8, heads=1, context=8, vocabulary=32)
    schedule = WarmupStableDecay(kind="wsd")
    settings = RunSettings(steps=10, batch_sequences=2, lr=1e-3, schedule=schedule, optimizer=AdamW(), clip=1.0)
    return TrainRun(
        **{"kind": "train", "shards": "x", "model": model, "settings": settings, "seed": 0, "numerics": 1} | changes
    )


def test_the_id_is_the_same_in_every_process_and_version():
    assert a_run().run_id == "43a8eb313e8a1ac73d848b74d41539d3"


def test_what_determines_the_result_moves_the_id():
    base = a_run()
    changed = [
        a_run(seed=1),
        a_run(shards="y"),
        a_run(numerics=2),
        a_run(settings=base.settings.model_copy(update={"lr": 2e-3})),
        a_run(settings=base.settings.model_copy(update={"clip": None})),
        a_run(model=base.model.model_copy(update={"tie_embeddings": False})),
    ]
    assert len({run.run_id for run in [base, *changed]}) == 1 + len(changed)


def test_floats_that_agree_to_six_digits_are_one_run():
    base = a_run()
    near = a_run(settings=base.settings.model_copy(update={"lr": 1e-3 * (1 + 1e-9)}))
    assert near.run_id == base.run_id


def test_a_field_equal_to_its_default_is_left_out():
    assert "mlp_ratio" not in canonical_json(a_run())
    assert "mlp_ratio" in canonical_json(a_run(model=a_run().model.model_copy(update={"mlp_ratio": 2})))


def test_a_number_that_null_stands_for_is_the_same_model_and_run():
    shape = {"kind": "decoder", "layers": 1, "width": 8, "heads": 2, "context": 8, "vocabulary": 32}
    plain = ResolvedDecoder(**shape)
    for given in ({"kv_heads": 2}, {"mlp_width": 32}, {"kv_heads": 2, "mlp_width": 32}):
        model = ResolvedDecoder(**shape, **given)
        assert model == plain
        assert (model.kv_heads, model.mlp_width) == (None, None)
        assert a_run(model=model).run_id == a_run(model=plain).run_id
        assert read_run(a_run(model=model).model_dump_json()) == a_run(model=plain)
    others = [ResolvedDecoder(**shape, **given) for given in ({"kv_heads": 1}, {"mlp_width": 24}, {"mlp_ratio": 3})]
    assert len({a_run(model=model).run_id for model in (plain, *others)}) == 4
    with pytest.raises(ValidationError, match="mlp_ratio may be given only where mlp_width is null"):
        ResolvedDecoder(**shape, mlp_ratio=2, mlp_width=16)


@pytest.mark.parametrize(("preset", "fields"), PRESETS.items(), ids=list(PRESETS))
def test_a_preset_keeps_the_numbers_it_gives_and_so_the_ids_of_its_runs(preset, fields):
    shape = {"kind": "decoder", "layers": 2, "width": 64, "heads": 4, "context": 32, **fields.fields}
    model = ResolvedDecoder(**shape, vocabulary=32)
    assert {name: getattr(model, name) for name in shape} == shape, preset


def test_no_identity_holds_a_number_that_is_not_finite():
    with pytest.raises(ValueError, match="no place in an identity"):
        digest({"x": float("nan")})


def test_a_log_grid_gives_two_significant_digits_and_both_ends():
    assert LogGrid(low=1e-4, high=1e-2, points=5).values() == (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)
    assert LearningRateAxis(grid=(1e-2, 1e-3)).values() == (1e-3, 1e-2)
    with pytest.raises(ValueError, match="closer than 2 digits"):
        LogGrid(low=1.0, high=1.1, points=20)


def test_a_models_own_budget_replaces_the_studys():
    base = TrainingSettings(steps=10, batch_tokens=64)
    own = base.overridden_by(TrainingOverride(tokens=500))
    assert (own.steps, own.tokens, own.batch_tokens) == (None, 500, 64)
    assert base.overridden_by(None) is base


def test_a_changed_copy_of_a_part_whose_identity_was_worked_out_has_one_of_its_own():
    run = a_run()
    first = run.run_id
    changed = run.settings.model_copy(update={"lr": 2 * run.settings.lr})
    copy = run.model_copy(update={"settings": changed})
    assert copy.run_id == a_run(settings=changed).run_id != first
    assert copy == a_run(settings=changed)
    assert run.run_id == first
