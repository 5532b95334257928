"""Which training window is sample i: a pure function of (seed, sample index), whatever the batch size.

Samples come in blocks; inside a block each source gets its weight's share (systematic sampling, so that
the mixture is exact to one sample a block), in a random order. A source's windows come in a random order
without repetition until all are used; then a new epoch begins. A run that is to repeat its data as often as a longer
one reads fewer windows of each source (`reads`). Knows nothing of tokens or of torch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_BLOCK = 256  # samples; part of the data order and so of `numerics`
_MIXING, _ORDER, _CHOICE = 1, 2, 3  # purposes of random streams

IntArray = npt.NDArray[np.int64]


class SampleStream:
    """The endless stream of one run's samples.

    Args:
        weights: share of each source, sums to 1.
        num_windows: training windows that each source holds, at least one.
        seed: of the run; recipes compared with each other share it.
        reads: how many of its windows each source lends, at least one; all where not given. Which they are is drawn
            from the seed; those of a smaller number are among those of a larger one.
    """

    def __init__(
        self, weights: Sequence[float], num_windows: Sequence[int], seed: int, reads: Sequence[int] | None = None
    ) -> None:
        self._bounds = np.cumsum(np.asarray(weights, dtype=np.float64))
        self._bounds /= self._bounds[-1]
        self._seed = seed
        lent = num_windows if reads is None else reads
        self._num_windows = [min(int(count), int(most)) for count, most in zip(num_windows, lent, strict=True)]
        self._chosen = {
            source: self._generator(_CHOICE, source).permutation(int(count))[:read]
            for source, (count, read) in enumerate(zip(num_windows, self._num_windows, strict=True))
            if read < count
        }
        self._blocks: list[IntArray] = []  # source of each sample
        self._before: list[IntArray] = [np.zeros(len(self._num_windows), dtype=np.int64)]
        self._orders: dict[tuple[int, int], IntArray] = {}

    def samples(self, first: int, count: int) -> tuple[IntArray, IntArray]:
        """Source and window index of samples first .. first + count - 1."""
        sources, ordinals = [], []
        for block in range(first // _BLOCK, (first + count - 1) // _BLOCK + 1):
            block_sources, block_ordinals = self._block(block)
            low, high = max(first - block * _BLOCK, 0), min(first + count - block * _BLOCK, _BLOCK)
            sources.append(block_sources[low:high])
            ordinals.append(block_ordinals[low:high])
        chosen = np.concatenate(sources)
        return chosen, self._windows(chosen, np.concatenate(ordinals))

    @property
    def fingerprint(self) -> str:
        """First draws of the random streams behind the order: of the seed alone, so the same for all recipes."""
        return " ".join(f"{self._generator(*stream).random():.12f}" for stream in ((_MIXING, 0), (_ORDER, 0, 0)))

    def epochs(self, num_samples: int) -> list[float]:
        """How often the windows that each source lends have been read after `num_samples` samples."""
        counts = np.zeros(len(self._num_windows), dtype=np.int64)
        if num_samples:
            sources, _ = self.samples(num_samples - 1, 1)
            block = (num_samples - 1) // _BLOCK
            counts = self._before[block] + np.bincount(
                self._blocks[block][: (num_samples - 1) % _BLOCK], minlength=len(counts)
            )
            counts[sources[0]] += 1
        return [float(count / total) for count, total in zip(counts, self._num_windows, strict=True)]

    def _block(self, block: int) -> tuple[IntArray, IntArray]:
        """Source of each sample of a block, and how many samples of that source came before it."""
        while len(self._blocks) <= block:
            generator = self._generator(_MIXING, len(self._blocks))
            points = (generator.random() + np.arange(_BLOCK)) / _BLOCK
            sources = np.minimum(np.searchsorted(self._bounds, points, side="right"), len(self._num_windows) - 1)
            generator.shuffle(sources)
            self._blocks.append(sources)
            self._before.append(self._before[-1] + np.bincount(sources, minlength=len(self._num_windows)))
        sources = self._blocks[block]
        ordinals = np.empty(_BLOCK, dtype=np.int64)
        for source in np.unique(sources):
            mine = sources == source
            ordinals[mine] = self._before[block][source] + np.arange(mine.sum())
        return sources, ordinals

    def _windows(self, sources: IntArray, ordinals: IntArray) -> IntArray:
        windows = np.empty_like(ordinals)
        for index, (source, ordinal) in enumerate(zip(sources.tolist(), ordinals.tolist(), strict=True)):
            epoch, place = divmod(ordinal, self._num_windows[source])
            windows[index] = self._order(source, epoch)[place]
        return windows

    def _order(self, source: int, epoch: int) -> IntArray:
        if (source, epoch) not in self._orders:
            generator = self._generator(_ORDER, source, epoch)
            self._orders = {k: order for k, order in self._orders.items() if k[0] != source or k[1] >= epoch - 1}
            order = generator.permutation(self._num_windows[source])
            self._orders[source, epoch] = self._chosen[source][order] if source in self._chosen else order
        return self._orders[source, epoch]

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, *purpose))
