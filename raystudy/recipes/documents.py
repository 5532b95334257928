"""What a document is: how text is cut into documents, its key, and the hash order of documents.

A document is a string. Knows nothing of where the text came from or of tokens.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

MAX_DOCUMENT_CHARACTERS = 4000
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)*\n")


def document_key(text: str) -> str:
    """The document's identity: the first 32 hexadecimal digits of the SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def hash_share(text: str) -> float:
    """Where the document lies in [0, 1) by its hash: the same text always gives the same number."""
    return int(document_key(text)[:13], 16) / 16**13


def hash_order(texts: Sequence[str]) -> list[int]:
    """Indices of `texts` sorted by document key; equal documents keep the order they came in."""
    keys = [document_key(text) for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)


def cut_into_documents(text: str, max_characters: int = MAX_DOCUMENT_CHARACTERS, min_characters: int = 1) -> list[str]:
    """Documents of at most `max_characters`, cut at blank lines; shorter than `min_characters` are dropped.

    Paragraphs are joined while they fit. A paragraph that is too long by itself is cut at line ends,
    a line that is too long at `max_characters`. Documents without any visible character are dropped.
    """
    documents: list[str] = []
    current = ""
    for paragraph in _paragraphs(text, max_characters):
        joined = f"{current}\n\n{paragraph}" if current else paragraph
        if len(joined) <= max_characters:
            current = joined
        else:
            documents.append(current)
            current = paragraph
    documents.append(current)
    return [document for document in documents if document.strip() and len(document) >= min_characters]


def _paragraphs(text: str, max_characters: int) -> Iterator[str]:
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    for paragraph in _BLANK_LINES.split(unified):
        block = paragraph.strip("\n").rstrip()
        if len(block) <= max_characters:
            if block:
                yield block
            continue
        piece = ""
        for line in block.split("\n"):
            for start in range(0, max(len(line), 1), max_characters):
                part = line[start : start + max_characters]
                if piece and len(piece) + 1 + len(part) > max_characters:
                    yield piece
                    piece = part
                else:
                    piece = f"{piece}\n{part}" if piece else part
        if piece:
            yield piece
