"""The recipes and validation sets of a study file: where text comes from and what is done to it.

Holding text out: a `text` source with `holdout: 0.1` gives a recipe nine tenths of its documents and a
validation set the other tenth; the side is fixed by a hash of the document's text. A validation set
over other files than any recipe's needs no holdout. Files that recipes read must not be read whole by a
validation set; `raystudy.recipes.disjoint.check_disjoint` refuses such a study by comparing documents.
The embedded corpus is split already. Knows nothing of files' contents, tokens or training.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Name, Spec

Domain = Literal["prose", "code", "tests", "headers", "stubs", "licences", "tables"]
Dimension = Literal["domain mixture", "corpus", "filtering", "deduplication"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False, description="relative share of the source")]
Version = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        pattern=r"\S",
        description="what identifies these data on every storage, such as `c4-2024-03@sha256:...`; change it with them",
    ),
]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


class EmbeddedSource(Spec):
    """Text of the packages that this project pins; nothing is downloaded. Domains mix at their natural sizes."""

    kind: Literal["embedded"]
    domains: tuple[Domain, ...] = Field(min_length=1)
    weight: Weight = 1.0
    max_bytes: int | None = Field(default=None, gt=0, description="keep documents in hash order up to this size")

    @model_validator(mode="after")
    def _domains_occur_once(self) -> "EmbeddedSource":
        if len(set(self.domains)) < len(self.domains):
            raise ValueError(f"each domain must occur once, but got {', '.join(self.domains)}")
        return self


class TextSource(Spec):
    """Own files. Format `text`: cut into documents at blank lines; `jsonl`: one document per line.

    Without `format`, files ending in `.jsonl` are read as such and all others as text.
    """

    kind: Literal["text"]
    files: tuple[str, ...] = Field(min_length=1, description="paths or globs")
    format: Literal["text", "jsonl"] | None = None
    field: str = Field(default="text", min_length=1, description="the key that holds a jsonl line's text")
    weight: Weight = 1.0
    max_bytes: int | None = Field(default=None, gt=0, description="keep documents in hash order up to this size")
    holdout: float = Field(default=0.0, ge=0, lt=1, description="share of documents kept for validation, by hash")


Source = Annotated[EmbeddedSource | TextSource, Field(discriminator="kind")]


class SyntheticSource(Spec):
    """One of the study's synthetic domains, for validation: its loss is exact, without documents."""

    kind: Literal["synthetic"]
    domain: Name


class ExternalSource(Spec):
    """A validation set that the trainer of an `engine: command` holds itself."""

    kind: Literal["external"]
    version: Version
    path: str = Field(default="", description="given to the trainer as it stands")


class KeepBest(Spec):
    """Keep the `share` of the documents that a simple heuristic of written language rates best."""

    step: Literal["keep-best"]
    share: PositiveShare


class Deduplicate(Spec):
    """Drop documents that repeat earlier ones; each level drops what the levels before it drop, and more.

    `exact`: the same text. `lines`: at least half of the longer lines stood in earlier documents.
    `near`: runs of words in common with one earlier document (Jaccard similarity) of at least `threshold`.
    """

    step: Literal["deduplicate"]
    level: Literal["exact", "lines", "near"]
    threshold: PositiveShare | None = Field(default=None, description="of level near; 0.5 where not given")

    @model_validator(mode="after")
    def _threshold_belongs_to_near(self) -> "Deduplicate":
        if self.threshold is not None and self.level != "near":
            raise ValueError(f"`threshold` belongs to level 'near', but the level is {self.level!r}; leave it out")
        return self


class ShuffleWords(Spec):
    """Deliberately bad: this share of each document's words change places with each other."""

    step: Literal["shuffle-words"]
    share: PositiveShare


class Noise(Spec):
    """Deliberately bad: this share of each document's characters become random letters and digits."""

    step: Literal["noise"]
    share: PositiveShare


Step = Annotated[KeepBest | Deduplicate | ShuffleWords | Noise, Field(discriminator="step")]


class _Described(Spec):
    """What every recipe says about itself; none of it is part of its identity."""

    name: Name
    dimension: Dimension
    family: Name | None = Field(default=None, description="the ladder it belongs to; its own name where not given")
    control: bool = Field(default=False, description="deliberately bad: left out of headline figures")
    description: str = ""

    @property
    def family_name(self) -> str:
        """The ladder this recipe belongs to."""
        return self.family if self.family is not None else self.name


class TextRecipe(_Described):
    """Sources mixed by weight, steps applied in order to all documents together, then cut to `tokens`."""

    kind: Literal["text"]
    sources: dict[Name, Source] = Field(min_length=1)
    steps: tuple[Step, ...] = ()
    tokens: int | None = Field(
        default=None, gt=0, description="unique tokens: each source keeps documents in hash order up to its share"
    )

    @model_validator(mode="after")
    def _some_weight_is_positive(self) -> "TextRecipe":
        _check_weights({name: source.weight for name, source in self.sources.items()})
        return self

    def weights(self) -> dict[str, float]:
        """Normalised weights of the sources that have any."""
        total = sum(source.weight for source in self.sources.values())
        return {name: source.weight / total for name, source in self.sources.items() if source.weight > 0}


class SyntheticRecipe(_Described):
    """A mixture, by weight, of the study's synthetic domains; for random-feature models."""

    kind: Literal["synthetic"]
    weights: dict[Name, Weight] = Field(min_length=1)

    @model_validator(mode="after")
    def _some_weight_is_positive(self) -> "SyntheticRecipe":
        _check_weights(self.weights)
        return self


class ExternalRecipe(_Described):
    """Data of one's own that are read by the trainer of an `engine: command`, and never become shards here.

    Its identity is `version`, not its path: where the same data lie elsewhere, their runs are the same.
    """

    kind: Literal["external"]
    version: Version
    path: str = Field(default="", description="given to the trainer as it stands")
    tokens: int | None = Field(default=None, gt=0, description="unique tokens, to tell how often runs repeat them")


Recipe = Annotated[TextRecipe | SyntheticRecipe | ExternalRecipe, Field(discriminator="kind")]


class ValidationSet(Spec):
    """Held-out text: the validation part of an embedded source, or own files (see the module's docstring).

    Or a synthetic domain, on which random-feature models are measured exactly; or data that the trainer of an
    `engine: command` holds itself.
    """

    source: Annotated[EmbeddedSource | TextSource | SyntheticSource | ExternalSource, Field(discriminator="kind")]
    max_documents: int | None = Field(default=None, gt=0, description="keep this many documents, in hash order")
    max_document_bytes: int = Field(default=2000, gt=0, description="UTF-8 bytes; documents are cut to this")
    overlap: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of each window of the model's context that only gives context; 0: windows do not overlap",
    )

    @model_validator(mode="after")
    def _overlap_belongs_to_text(self) -> "ValidationSet":
        if self.overlap and not self.is_text:
            raise ValueError(
                f"`overlap` belongs to text, but the source is {self.source.kind}; leave it out, got {self.overlap}"
            )
        if isinstance(self.source, ExternalSource) and self.max_documents is not None:
            raise ValueError(
                f"`max_documents` belongs to text, but the source is external; leave it out, got {self.max_documents}"
            )
        return self

    @property
    def is_text(self) -> bool:
        """Whether raystudy builds it from documents."""
        return isinstance(self.source, EmbeddedSource | TextSource)

    @property
    def text_source(self) -> EmbeddedSource | TextSource:
        """The source, of a validation set of text."""
        assert isinstance(self.source, EmbeddedSource | TextSource)
        return self.source

    @model_validator(mode="after")
    def _source_has_no_weight(self) -> "ValidationSet":
        if isinstance(self.source, EmbeddedSource | TextSource) and self.source.weight != 1.0:
            raise ValueError(
                f"the source of a validation set has no weight, but got {self.source.weight}; leave it out"
            )
        return self


def _check_weights(weights: Mapping[str, float]) -> None:
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError(f"at least one weight must be above 0, but got {dict(weights)}")
