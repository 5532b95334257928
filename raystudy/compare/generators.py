"""A random generator for each purpose, derived from the study's seed by name.

The stream depends on the names alone, never on how many others were made before it. Knows nothing about what
is drawn.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def named_generator(seed: int, *names: str) -> np.random.Generator:
    """The generator for (seed, names): same on every machine and in every process (sha256, not `hash`)."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode("utf-8")).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence(words))
