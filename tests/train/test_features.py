"""Random-feature models: what a run gives depends on its spec alone, and follows the mathematics of its setting."""

import json

import numpy as np
import pytest

from raystudy.artifacts.storage import Storage
from raystudy.artifacts.synthetic import open_synthetic, write_synthetic
from raystudy.errors import DataError
from raystudy.execute.work import Task, do_task
from raystudy.specs.base import digest
from raystudy.specs.model import RandomFeaturesSpec
from raystudy.specs.run import FEATURES_NUMERICS, FeaturesProbe, FeaturesRun
from raystudy.specs.synthetic import Domain, SyntheticDomains, mixture
from raystudy.specs.training import SgdSettings
from raystudy.study.synthetic import best_achievable_loss, gradient_alignment, moments, spectrum, teachers
from raystudy.train.features import averaged_steps, rates, train_features

DOMAINS = SyntheticDomains(
    inputs=32,
    domains={
        "target": Domain(exponent=1.2),
        "noisy": Domain(exponent=1.0, gain=4.0, noise_variance=1.0),
        "off": Domain(exponent=1.2, teacher_shift=0.6),
    },
)
DATA = mixture(DOMAINS, {"target": 0.5, "noisy": 0.3, "off": 0.2})
TARGET = mixture(DOMAINS, {"target": 1.0})
MODEL = RandomFeaturesSpec(kind="random-features", features=8)
HELD = {digest(TARGET): TARGET}


def a_run(lr=0.1, seed=0, steps=300, model=MODEL, data=DATA, **training) -> FeaturesRun:
    return FeaturesRun(
        kind="train-features",
        shards=digest(data),
        model=model,
        settings=SgdSettings(steps=steps, lr=lr, **training),
        seed=seed,
        numerics=FEATURES_NUMERICS,
    )


def outcomes(runs):
    return {run.run_id: outcome for run, outcome in train_features(runs, DATA, HELD)}


def test_the_losses_of_a_golden_run_do_not_move():
    """If they do, FEATURES_NUMERICS must rise: runs before and after are then not the same."""
    (outcome,) = outcomes([a_run()]).values()
    assert outcome.final[digest(TARGET)] == pytest.approx(GOLDEN_LOSS, rel=1e-9)
    assert a_run().run_id == GOLDEN_ID


GOLDEN_LOSS = 0.24225386856468722
GOLDEN_ID = "c43597765354a69256527454896d0241"


def test_what_a_run_gives_does_not_depend_bit_for_bit_on_which_are_trained_beside_it():
    runs = [a_run(lr, seed, steps) for lr in (0.01, 0.1, 0.5) for seed in range(3) for steps in (40, 300)]
    runs += [a_run(0.5, seed, 300, decay=1.0) for seed in range(3)] + [a_run(0.5, 1, 300, average=0.5)]
    together = outcomes(runs)
    for part in (runs[:1], runs[3:9], runs[::4], list(reversed(runs))):
        for run_id, outcome in outcomes(part).items():
            np.testing.assert_array_equal(outcome.weights, together[run_id].weights)
            assert outcome.curve == together[run_id].curve


def test_a_run_of_fewer_steps_is_the_beginning_of_a_longer_one():
    short, long = outcomes([a_run(steps=100), a_run(steps=300)]).values()
    assert short.curve[0] == long.curve[0]
    assert short.curve[-1]["step"] == 99


def test_without_noise_and_with_many_samples_a_step_is_one_of_gradient_descent():
    clean = SyntheticDomains(inputs=8, domains={"x": Domain(exponent=0.5, noise_variance=0.0)})
    data, model = mixture(clean, {"x": 1.0}), RandomFeaturesSpec(kind="random-features", features=8)
    ((_, outcome),) = train_features([a_run(0.3, 0, 1, model, data, batch_samples=20_000)], data, {"v": data})
    own = moments(data, 8, 0)
    np.testing.assert_allclose(outcome.weights, 0.3 * own.c, rtol=0.05, atol=0.003)


def test_a_rate_that_is_too_high_diverges_and_leaves_no_loss():
    (outcome,) = outcomes([a_run(lr=50.0)]).values()
    assert outcome.status == "diverged"
    assert outcome.final == {}


def test_decay_falls_to_zero_and_the_average_is_that_of_the_last_weights():
    assert rates(SgdSettings(steps=4, lr=1.0, decay=0.5)).tolist() == [1.0, 1.0, 1.0, 0.5]
    assert rates(SgdSettings(steps=4, lr=0.4)).tolist() == [0.4] * 4
    assert averaged_steps(SgdSettings(steps=4, lr=1.0, average=0.5)) == 2
    singles = [outcomes([a_run(steps=steps)]).popitem()[1].weights for steps in (9, 10)]
    (averaged,) = outcomes([a_run(steps=10, average=0.2)]).values()
    np.testing.assert_allclose(averaged.weights, np.mean(singles, axis=0), rtol=1e-12)


def test_the_best_head_has_no_gradient_and_no_predictor_beats_the_best_achievable_loss():
    own, basis = moments(DATA, 8, 0), spectrum(DATA, 8, 0)
    np.testing.assert_allclose(own.h @ basis.head(np.zeros(8)), own.c, atol=1e-10)
    assert basis.values[0] == basis.values.max()
    assert np.trace(own.h) == pytest.approx(sum(basis.values))
    held = moments(TARGET, 8, 0)
    assert held.loss(np.zeros(8)) == pytest.approx(held.power)
    assert best_achievable_loss(TARGET, TARGET) == pytest.approx(0.1)
    assert best_achievable_loss(DATA, TARGET) > 0.1


def test_moments_agree_with_samples():
    generator = np.random.default_rng(5)
    projection = np.random.default_rng((0, 3, 8, 32)).standard_normal((8, 32)) / np.sqrt(8)
    theta, count = teachers(DATA), 400_000
    h, c, power = np.zeros((8, 8)), np.zeros(8), 0.0
    for weight, domain, teacher in zip(DATA.weights, DATA.domains, theta, strict=True):
        scale = np.arange(1, 33.0) ** -domain.exponent
        x = generator.standard_normal((count, 32)) * np.sqrt(domain.gain * scale / scale.sum())
        y = x @ teacher + np.sqrt(domain.noise_variance) * generator.standard_normal(count)
        z = x @ projection.T
        h, c, power = h + weight * z.T @ z / count, c + weight * z.T @ y / count, power + weight * (y @ y) / count
    own = moments(DATA, 8, 0)
    np.testing.assert_allclose(h, own.h, atol=0.01)
    np.testing.assert_allclose(c, own.c, atol=0.01)
    assert power == pytest.approx(own.power, rel=0.01)


def test_renaming_domains_changes_no_data_and_order_of_weights_is_that_of_domains():
    renamed = SyntheticDomains(inputs=32, domains=dict(zip("abc", DOMAINS.domains.values(), strict=True)))
    assert digest(mixture(renamed, {"c": 2, "a": 5, "b": 3})) == digest(DATA)
    with pytest.raises(KeyError):
        mixture(DOMAINS, {"nothing": 1.0})


@pytest.fixture
def task(tmp_path):
    write_synthetic(tmp_path, DATA)
    probe = FeaturesProbe(
        kind="probe",
        probe="gradient-alignment",
        shards=digest(DATA),
        model=MODEL,
        validation=digest(TARGET),
        numerics=FEATURES_NUMERICS,
    )
    runs = [a_run(), a_run(lr=50.0), probe]
    return Task(tuple(r.model_dump_json() for r in runs), str(tmp_path), {write_synthetic(tmp_path, TARGET): "target"})


def test_a_task_leaves_a_record_of_every_member(task, tmp_path):
    reports = do_task(task)
    assert [report.status for report in reports] == ["finished", "diverged", "finished"]
    ledger = Storage(tmp_path).runs
    by_status = {report.run_id: ledger.read(report.run_id) for report in reports}
    finished, diverged, probe = by_status.values()
    assert finished.metric("loss", digest(TARGET)) > 0.1
    assert finished.result["metrics"][0]["unit"] == "squared error"
    assert diverged.metric("loss", digest(TARGET)) is None
    assert probe.metric("gradient-alignment", digest(TARGET)) == gradient_alignment(DATA, TARGET, 8, 0)
    assert {report.status for report in do_task(task)} == {"finished", "diverged"}


def test_a_new_validation_set_costs_an_evaluation_of_the_kept_head(task, tmp_path):
    do_task(task)
    run = a_run()
    before = (tmp_path / "runs" / run.run_id / "result.json").read_bytes()
    other = write_synthetic(tmp_path, DATA)
    do_task(Task(task.runs, task.storage, {**task.validation, other: "other"}))
    record = Storage(tmp_path).runs.read(run.run_id, [other])
    (outcome,) = outcomes([run]).values()
    assert record.metric("loss", other) == pytest.approx(float(moments(DATA, 8, 0).loss(outcome.weights)), rel=1e-12)
    assert (tmp_path / "runs" / run.run_id / "result.json").read_bytes() == before


def test_data_that_was_changed_on_storage_are_refused(tmp_path):
    name = write_synthetic(tmp_path, DATA)
    path = tmp_path / "shards" / name / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["data"]["draw"] = 7
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="its manifest holds other data"):
        open_synthetic(tmp_path, name)
