"""The order of training samples: a pure function of seed and sample index, with exact mixture shares."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raystudy.train.stream import SampleStream


def pairs(stream, first, count):
    sources, windows = stream.samples(first, count)
    return list(zip(sources.tolist(), windows.tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 300), st.integers(0, 5))
def test_a_sample_is_the_same_whatever_was_asked_before_and_with_whatever_batch(first, count, seed):
    weights, sizes = [0.5, 0.3, 0.2], [40, 7, 300]
    whole = pairs(SampleStream(weights, sizes, seed), 0, first + count)
    assert pairs(SampleStream(weights, sizes, seed), first, count) == whole[first:]
    stepped = SampleStream(weights, sizes, seed)
    assert [pairs(stepped, i, 1)[0] for i in range(first, first + min(count, 20))] == whole[
        first : first + min(count, 20)
    ]


def test_the_mixture_is_exact_to_one_sample_a_block():
    sources, _ = SampleStream([0.7, 0.25, 0.05], [1000, 1000, 1000], 3).samples(0, 256 * 20)
    counts = np.bincount(sources.reshape(20, 256)[0], minlength=3)
    np.testing.assert_allclose(counts, [0.7 * 256, 0.25 * 256, 0.05 * 256], atol=1)
    total = np.bincount(sources, minlength=3)
    np.testing.assert_allclose(total / len(sources), [0.7, 0.25, 0.05], atol=1 / 256)


def test_no_window_repeats_before_all_windows_of_its_source_are_used():
    sources, windows = SampleStream([0.5, 0.5], [100, 30], 0).samples(0, 400)
    for source, size in ((0, 100), (1, 30)):
        mine = windows[sources == source]
        for start in range(0, len(mine) - size, size):
            assert sorted(mine[start : start + size]) == list(range(size))
        assert not np.array_equal(mine[:size], mine[size : 2 * size])


def test_epochs_count_how_often_each_source_was_read():
    stream = SampleStream([0.5, 0.5], [100, 32], 0)
    assert stream.epochs(0) == [0.0, 0.0]
    sources, _ = stream.samples(0, 300)
    expected = np.bincount(sources, minlength=2) / [100, 32]
    np.testing.assert_allclose(SampleStream([0.5, 0.5], [100, 32], 0).epochs(300), expected)
    np.testing.assert_allclose(stream.epochs(256), [1.28, 4.0])


def test_seeds_give_different_orders():
    assert pairs(SampleStream([1.0], [1000], 0), 0, 50) != pairs(SampleStream([1.0], [1000], 1), 0, 50)
