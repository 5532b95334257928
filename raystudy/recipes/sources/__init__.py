"""Sources of text, one file each; SOURCES registers them by the `kind` of their spec.

A source is a function `(spec, held_out) -> parts`. Each part can be read and tokenised by itself, and
its identity is cheap: it covers everything that its documents depend on, so that a part which was
tokenised before is found again without being read. With `held_out` the parts hold what recipes do not.
"""

from collections.abc import Callable
from typing import Any

from raystudy.recipes.sources.embedded import embedded_parts
from raystudy.recipes.sources.part import SourcePart
from raystudy.recipes.sources.text import text_parts

__all__ = ["SOURCES", "SourcePart"]

SOURCES: dict[str, Callable[[Any, bool], tuple[SourcePart, ...]]] = {
    "embedded": embedded_parts,
    "text": text_parts,
}
