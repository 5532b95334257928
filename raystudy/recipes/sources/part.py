"""The piece of a source that is read and tokenised as one."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class SourcePart:
    """`read` gives the documents, always the same for the same `identity`; `label` is for messages."""

    label: str
    identity: str
    read: Callable[[], tuple[str, ...]]
