"""Probes of decoders against known answers: gradients by finite differences, a dense Hessian, closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.specs.run import PROBE_NUMERICS, AlignmentProbe, ResolvedDecoder, SharpnessProbe
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import PADDING, ValidationDocuments, evaluate
from raystudy.train.probes.alignment import measure_alignment
from raystudy.train.probes.batches import Batch, recipe_batches, validation_batches
from raystudy.train.probes.gradients import mean_gradient, mean_loss, preconditioner
from raystudy.train.probes.measure import measure_probes
from raystudy.train.probes.sharpness import largest_eigenvalue, measure_sharpness

TINY = ResolvedDecoder(kind="decoder", layers=1, width=4, heads=2, context=4, mlp_ratio=1, vocabulary=5)
SMALL = ResolvedDecoder(kind="decoder", layers=2, width=16, heads=2, context=16, vocabulary=64)


def random_batches(number: int, seed: int = 0, model: ResolvedDecoder = TINY, rows: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.vocabulary, (number, rows, model.context + 1), generator=generator)
    return [Batch(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def a_model(dtype: torch.dtype = torch.float64, scale: float = 10.0) -> Decoder:
    """A tiny decoder whose weights are large enough for its loss to be curved."""
    model = Decoder(TINY, seed=0).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim == 2 else 1.0)
    return model


def weights_of(model: Decoder) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def moved_to(model: Decoder, flat: torch.Tensor) -> None:
    torch.nn.utils.vector_to_parameters(flat.clone(), model.parameters())


def test_alignment_is_the_loss_drop_of_a_small_step_along_the_recipes_gradient():
    """Independent of any gradient of the probe: two losses, before and after steps both ways."""
    model, batches, held = a_model(), random_batches(4), random_batches(2, seed=1)
    plain, scaled = measure_alignment(model, batches, {"v": held})["v"]
    start, gradients = weights_of(model), []
    for batch in batches:
        loss = functional.cross_entropy(model(batch.inputs).transpose(1, 2), batch.targets)
        gradients.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    rows = torch.stack(gradients)
    adam = 1 / ((rows**2).mean(0).sqrt() + 1e-8) * (rows**2).mean(0).sign()
    for found, step in ((plain, rows.mean(0)), (scaled, adam * rows.mean(0))):
        losses = []
        for sign in (1, -1):
            moved_to(model, start + sign * 1e-5 * step)
            with torch.no_grad():
                losses.append(float(sum(mean_loss(model, batch) for batch in held) / len(held)))
        moved_to(model, start)
        assert found.inner == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5)


def test_standard_error_and_cosines_are_those_of_gradients_worked_by_hand():
    model, batches, held = a_model(), random_batches(5), random_batches(1, seed=1)
    rows = torch.stack([mean_gradient(model, [batch]) for batch in batches]).numpy()
    target = mean_gradient(model, held).numpy()
    scale = preconditioner(torch.from_numpy((rows**2).mean(0))).numpy()
    found = measure_alignment(model, batches, {"v": held})["v"]
    for alignment, weight in zip(found, (np.ones_like(scale), scale), strict=True):
        products = rows @ (weight * target)
        norms = np.sqrt((weight * target**2).sum() * (weight * rows.mean(0) ** 2).sum())
        assert alignment.inner == pytest.approx(products.mean())
        assert alignment.inner_error == pytest.approx(products.std(ddof=1) / np.sqrt(5))
        assert alignment.cosine == pytest.approx(products.mean() / norms)
        assert alignment.cosine_error == pytest.approx(products.std(ddof=1) / np.sqrt(5) / norms)


def test_a_recipe_is_wholly_aligned_with_itself():
    model, batches = a_model(), random_batches(3)
    plain, scaled = measure_alignment(model, batches, {"v": batches})["v"]
    assert plain.cosine == pytest.approx(1.0)
    assert scaled.cosine == pytest.approx(1.0)
    assert plain.inner == pytest.approx(float(mean_gradient(model, batches) @ mean_gradient(model, batches)))


def test_a_weight_without_any_gradient_counts_for_nothing():
    scale = preconditioner(torch.tensor([0.0, 4.0, 1e-30]))
    assert scale.tolist() == [0.0, pytest.approx(0.5), pytest.approx(1e8, rel=1e-6)]


@pytest.fixture(scope="module")
def dense_hessian() -> torch.Tensor:
    """Of the tiny model, by central differences of the gradient, in float64."""
    model, batches = a_model(), random_batches(3)
    whole = [Batch(torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches]))]
    start, columns = weights_of(model), []
    for place in range(len(start)):
        step = torch.zeros_like(start)
        step[place] = 1e-5
        sides = []
        for sign in (1, -1):
            moved_to(model, start + sign * step)
            sides.append(mean_gradient(model, whole))
        columns.append((sides[0] - sides[1]) / 2e-5)
    dense = torch.stack(columns)
    return (dense + dense.T) / 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(dense_hessian, dtype, tolerance):
    batches = random_batches(3)
    square = torch.stack([mean_gradient(a_model(), [batch]) ** 2 for batch in batches]).mean(0)
    root = preconditioner(square).sqrt()
    matrices = (dense_hessian, root[:, None] * dense_hessian * root)
    expected = [float(torch.linalg.eigvalsh(matrix)[-1]) for matrix in matrices]
    plain, scaled = measure_sharpness(a_model(dtype), batches, seed=0, iterations=100, tolerance=1e-5)
    assert [plain.value, scaled.value] == pytest.approx(expected, rel=tolerance)
    assert abs(plain.value - expected[0]) <= plain.residual + tolerance * expected[0]


def test_lanczos_finds_the_largest_and_not_the_most_negative_eigenvalue_and_says_how_near_it_is():
    values = torch.cat([torch.linspace(-30, 9, 80, dtype=torch.float64), torch.tensor([10.0], dtype=torch.float64)])
    start = torch.ones(81, dtype=torch.float64)
    found = largest_eigenvalue(lambda v: values * v, start, 80, 1e-6)
    assert found.value == pytest.approx(10.0, rel=1e-6)
    early = largest_eigenvalue(lambda v: values * v, start, 5, 1e-6)
    assert early.steps == 5
    assert (values - early.value).abs().min() <= early.residual
    assert largest_eigenvalue(lambda v: 3 * v, start, 10, 1e-6).steps == 1
    assert np.isnan(largest_eigenvalue(lambda v: v * float("nan"), start, 10, 1e-6).value)


def probes(view: str, validation: str, **changes) -> tuple[AlignmentProbe, SharpnessProbe]:
    about = {"kind": "probe", "shards": view, "model": SMALL, "seed": 0, "batches": 3, "batch_sequences": 4}
    about |= {"numerics": PROBE_NUMERICS, **changes}
    aligned = AlignmentProbe(probe="decoder-gradient-alignment", validation=validation, **about)
    return aligned, SharpnessProbe(probe="sharpness", iterations=20, tolerance=1e-2, **about)


@pytest.fixture(scope="module")
def data(shard_storage):
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    return open_view(storage, view), {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}


def test_validation_windows_are_those_of_an_evaluation(data):
    _, documents = data
    ((digest, held),) = documents.items()
    shape = SMALL.model_copy(update={"context": 12})  # which does not divide the documents
    (probe, _) = probes("x", digest, batches=100, model=shape)
    windows = validation_batches(probe, held, "cpu")
    model = Decoder(shape, seed=0)
    loss = sum(float(mean_loss(model, batch).detach()) * batch.num_tokens for batch in windows)
    whole = evaluate(model, held, shape.context, "cpu")
    assert sum(batch.num_tokens for batch in windows) == whole.num_tokens.sum()
    assert loss == pytest.approx(whole.loss_sum.sum(), rel=1e-5)
    overlapping = validation_batches(probe, replace(held, overlap=0.5), "cpu")
    assert sum(batch.num_tokens for batch in overlapping) == sum(batch.num_tokens for batch in windows)
    assert len(overlapping) > len(windows), "cut as the validation set says"
    few = validation_batches(probes("x", digest)[0], held, "cpu")
    assert sum(len(batch.inputs) for batch in few) == 12
    assert int((windows[-1].targets == PADDING).sum()) > 0


def test_batches_are_of_the_seed_alone_and_not_those_that_a_training_begins_with(data):
    from raystudy.train.stream import SampleStream
    from raystudy.train.training import read_batch

    view, documents = data
    (probe, _) = probes(view.digest, next(iter(documents)))
    first, again = (torch.cat([b.inputs for b in recipe_batches(probe, view, "cpu")]) for _ in range(2))
    other = torch.cat([b.inputs for b in recipe_batches(probe.model_copy(update={"seed": 1}), view, "cpu")])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    stream = SampleStream([s.weight for s in view.sources], [s.windows(16) for s in view.sources], 0)
    assert not torch.equal(first, torch.from_numpy(read_batch(view, stream, 0, 12, 16))[:, :-1])


def test_probes_measured_together_give_the_same_rows_as_alone_and_in_a_used_process(data):
    view, documents = data
    (digest,) = documents
    pair = probes(view.digest, digest)
    both = measure_probes(pair, view, documents, None)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    alone = [measure_probes([probe], view, documents, None)[0] for probe in pair]
    assert [m.rows for m in both] == [m.rows for m in alone]
    assert [m.status for m in both] == ["finished", "finished"]
    names = {row.name for m in both for row in m.rows}
    assert {"preconditioned-gradient-cosine-standard-error", "preconditioned-sharpness-residual"} <= names
    double = measure_probes(probes(view.digest, digest, precision="fp64"), view, documents, None)
    for single, twice in zip(both, double, strict=True):
        np.testing.assert_allclose([r.value for r in single.rows], [r.value for r in twice.rows], rtol=0.02, atol=1e-3)


def test_weights_that_are_no_numbers_are_a_diverged_probe_and_no_error(data):
    view, documents = data
    (digest,) = documents
    broken = {name: p.detach().numpy() * np.nan for name, p in Decoder(SMALL, seed=0).named_parameters()}
    found = measure_probes(probes(view.digest, digest), view, documents, broken)
    assert [(m.status, m.rows) for m in found] == [("diverged", []), ("diverged", [])]


@pytest.mark.gpu
def test_a_gpu_measures_what_the_cpu_does(data):
    view, documents = data
    (digest,) = documents
    pair = probes(view.digest, digest, precision="fp64")
    for cpu, gpu in zip(
        *(measure_probes(pair, view, documents, None, device) for device in ("cpu", "cuda")), strict=True
    ):
        for own, other in zip(cpu.rows, gpu.rows, strict=True):
            assert own.value == pytest.approx(other.value, rel=1e-6, abs=1e-9), own.name
