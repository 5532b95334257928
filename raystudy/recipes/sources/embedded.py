"""The embedded corpus as a source: one part per domain, so that recipes share tokenised domains."""

from functools import partial

from raystudy.recipes.embedded.manifest import Part, load_manifest, read_documents
from raystudy.recipes.sources.part import SourcePart
from raystudy.specs.base import digest
from raystudy.specs.recipe import EmbeddedSource


def embedded_parts(source: EmbeddedSource, held_out: bool) -> tuple[SourcePart, ...]:
    """One part per domain, in the order of the spec; `held_out` chooses the validation files."""
    part: Part = "validation" if held_out else "train"
    return tuple(
        SourcePart(
            label=f"embedded {domain}",
            identity=digest(["embedded", load_manifest().digest, domain, part]),
            read=partial(read_documents, domain, part),
        )
        for domain in source.domains
    )
