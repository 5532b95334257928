"""How much of a document's wording stands in other documents: shares of 13-word runs. Knows only text.

Used when the embedded manifest is made (validation documents that repeat training text are dropped)
and by near deduplication (with shorter runs).
"""

import re
import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

HELD_OUT_WORDS = 13  # run length of the overlap check, as in the GPT-3 paper's contamination study
_WORD = re.compile(r"\w+")
_MIX = 0x9E3779B97F4A7C15  # odd 64-bit multiplier (golden ratio) of the rolling combination

HashArray = npt.NDArray[np.uint64]


def word_runs(text: str, num_words: int) -> HashArray:
    """Sorted unique 64-bit hashes of all runs of `num_words` lower-case words in `text`, [num_runs].

    A text of fewer words than that has one run: all its words.
    """
    words = _WORD.findall(text.lower())
    hashes = np.array([_word_hash(word) for word in words], dtype=np.uint64)
    length = min(num_words, len(words))
    runs = np.zeros(max(len(words) - length + 1, 0), dtype=np.uint64)
    for offset in range(length):
        runs = runs * np.uint64(_MIX) + hashes[offset : offset + len(runs)]
    return np.unique(runs)


@lru_cache(maxsize=2**17)
def _word_hash(word: str) -> int:
    data = word.encode()
    return (zlib.crc32(data) << 32) | zlib.crc32(data, 0x5BD1E995)


def all_runs(texts: Iterable[str], num_words: int) -> HashArray:
    """Sorted unique hashes of the runs of all texts, [num_runs]."""
    parts = [word_runs(text, num_words) for text in texts]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.uint64)


def share_in(text: str, runs: HashArray, num_words: int) -> float:
    """Share in [0, 1] of the text's runs that are among the sorted `runs`; 0 for a text without words."""
    own = word_runs(text, num_words)
    if not len(own) or not len(runs):
        return 0.0
    places = np.minimum(np.searchsorted(runs, own), len(runs) - 1)
    return float(np.mean(runs[places] == own))
