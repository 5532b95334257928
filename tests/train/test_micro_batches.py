"""Micro-batches: the same result within rounding, whatever their size; halved where memory does not suffice."""

import numpy as np
import pytest
import torch

import raystudy.train.micro_batches as micro_batches
from raystudy.train.run import Means, train
from raystudy.train.training import Training
from tests.train.test_training import a_run, losses

CONTEXT, BATCH = 16, 10


def a_batched_run(view, steps: int = 30):
    run = a_run(view.digest, steps=steps)
    return run.model_copy(update={"settings": run.settings.model_copy(update={"batch_sequences": BATCH})})


def test_a_batch_in_parts_gives_the_losses_of_the_whole_within_rounding(data):
    view, validation = data
    run = a_batched_run(view)
    whole = losses(train(run, view, validation, "cpu", Means(BATCH * CONTEXT)))
    for rows in (1, 3, 4, 7):  # 3, 4 and 7 do not divide the batch
        outcome = train(run, view, validation, "cpu", Means(rows * CONTEXT))
        assert outcome.made["micro_batch_sequences"] == rows
        np.testing.assert_allclose(losses(outcome), whole, rtol=3e-6)


def test_a_whole_batch_is_the_same_run_bit_for_bit_however_it_was_asked_for(data):
    view, validation = data
    run = a_batched_run(view)
    asked = [train(run, view, validation, "cpu", Means(most)) for most in ("auto", BATCH * CONTEXT, 100 * CONTEXT)]
    assert losses(asked[0]) == losses(asked[1]) == losses(asked[2]) == losses(train(run, view, validation))


def test_gradients_of_parts_add_up_to_that_of_the_batch(data):
    view, _ = data
    gradients = []
    for most in ("auto", 3 * CONTEXT):
        training = Training(a_batched_run(view), view, "cpu", most)
        training.micro_batches.backward(training.model, training.read_batch(0, BATCH), "cpu", "fp32")
        gradients.append([p.grad.clone() for p in training.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


class Scarce:
    """A forward pass that fails above some number of sequences, as one does where memory ends."""

    def __init__(self, training: Training, most: int, error: Exception) -> None:
        self.sizes = []
        forward = training.model.forward

        def scarce(tokens):
            self.sizes.append(len(tokens))
            if len(tokens) > most:
                raise error
            return forward(tokens)

        training.model.forward = scarce


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")]
)
def test_auto_halves_until_memory_suffices_and_loses_no_step(data, error):
    view, _ = data
    plenty, scarce = (Training(a_batched_run(view, steps=4), view, "cpu") for _ in range(2))
    seen = Scarce(scarce, 3, error)
    assert plenty.advance(4)
    assert scarce.advance(4)
    assert seen.sizes[:7] == [10, 5, 3, 3, 3, 1, 3]  # tried, tried, 3 + 3 + 3 + 1; the next step begins with 3
    np.testing.assert_allclose([r["loss"] for r in scarce.curve], [r["loss"] for r in plenty.curve], rtol=3e-6)


def test_what_does_not_fit_even_one_by_one_or_is_no_want_of_memory_is_raised(data):
    view, _ = data
    hopeless = Training(a_batched_run(view), view, "cpu")
    seen = Scarce(hopeless, 0, MemoryError())
    with pytest.raises(MemoryError):
        hopeless.advance(1)
    assert seen.sizes == [10, 5, 3, 2, 1]
    told = Training(a_batched_run(view), view, "cpu", 4 * CONTEXT)
    seen = Scarce(told, 3, MemoryError())
    with pytest.raises(MemoryError):
        told.advance(1)
    assert seen.sizes == [4]
    broken = Training(a_batched_run(view), view, "cpu")
    Scarce(broken, 0, RuntimeError("a size that does not match"))
    with pytest.raises(RuntimeError, match="a size that does not match"):
        broken.advance(1)


def test_a_real_failed_allocation_is_known_as_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert micro_batches.is_out_of_memory(caught.value)


def test_parts_taken_before_memory_ended_count_once(data):
    view, _ = data
    gradients = []
    for fails_at in (None, 2):  # the second part of five sequences: the first has left its gradient
        training = Training(a_batched_run(view), view, "cpu")
        training.micro_batches.rows = 5
        forward, calls = training.model.forward, []

        def scarce(tokens, forward=forward, calls=calls, fails_at=fails_at):
            calls.append(len(tokens))
            if len(calls) == fails_at:
                raise MemoryError
            return forward(tokens)

        training.model.forward = scarce
        training.micro_batches.backward(training.model, training.read_batch(0, BATCH), "cpu", "fp32")
        gradients.append([p.grad.clone() for p in training.model.parameters()])
    assert calls == [5, 5, 3, 3, 3, 1]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
