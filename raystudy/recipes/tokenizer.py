"""Loads a tokenizer.json and turns documents into token ids. Imports `tokenizers` only when it encodes.

Knows nothing of recipes or of storage.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.shards import MAX_VOCABULARY
from raystudy.errors import DataError, MissingPackageError

EMBEDDED = "embedded"  # what a study file says for the shipped tokenizer
EMBEDDED_PATH = Path(__file__).parent / "embedded" / "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
_BATCH_DOCUMENTS = 512

TokenArray = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json: its digest, size and the id that begins each document."""

    path: Path
    digest: str
    vocabulary_size: int
    end_of_text: int

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Token ids of each text, without any special token; text that looks like one is plain text."""
        tokenizer = _load(self.path, self.digest)
        arrays: list[TokenArray] = []
        for start in range(0, len(texts), _BATCH_DOCUMENTS):
            batch = tokenizer.encode_batch_fast(list(texts[start : start + _BATCH_DOCUMENTS]), add_special_tokens=False)
            arrays += [np.array(encoding.ids, dtype=np.uint16) for encoding in batch]
        return arrays

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each list of token ids; a part of a character becomes U+FFFD."""
        decoded: list[str] = _load(self.path, self.digest).decode_batch([list(one) for one in ids])
        return decoded


def open_tokenizer(tokenizer: str) -> TokenizerFile:
    """The tokenizer called `tokenizer`: `embedded`, or the path of a tokenizer.json.

    Raises:
        DataError: no such file, not a tokenizer, no `<|endoftext|>`, or more than 65,536 tokens.
    """
    path = EMBEDDED_PATH if tokenizer == EMBEDDED else Path(tokenizer)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"`tokenizer` must be 'embedded' or the path of a tokenizer.json, but {path}: {error.strerror}"
        ) from error
    return _describe(path, content)


def vocabulary_size(tokenizer: str) -> int:
    """Number of token ids of the tokenizer called `tokenizer`; raises as `open_tokenizer`."""
    return open_tokenizer(tokenizer).vocabulary_size


@lru_cache(maxsize=8)
def _describe(path: Path, content: bytes) -> TokenizerFile:
    try:
        data = json.loads(content)
        ids = {**data["model"]["vocab"], **{token["content"]: token["id"] for token in data["added_tokens"]}}
        size = max(ids.values()) + 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} must be a tokenizer.json of the `tokenizers` library with a vocabulary of tokens to ids, "
            f"but is not ({type(error).__name__}: {error})"
        ) from error
    if END_OF_TEXT not in ids:
        raise DataError(
            f"{path} must have the token {END_OF_TEXT}, which begins each document, but has not; "
            f"add it with Tokenizer.add_special_tokens and save the file again"
        )
    if size > MAX_VOCABULARY:
        raise DataError(f"{path} must have at most {MAX_VOCABULARY} tokens, but has {size}; choose a smaller one")
    return TokenizerFile(path, hashlib.sha256(content).hexdigest(), size, ids[END_OF_TEXT])


@lru_cache(maxsize=4)
def _load(path: Path, _digest: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingPackageError(
            "tokenising needs the package `tokenizers`, which is not installed; run: pip install 'raystudy[train]'"
        ) from error
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer
