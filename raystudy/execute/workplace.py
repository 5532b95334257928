"""Where a run is made, and the shards it is made from, opened once a process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.shards import RecipeView, TokenShard, open_tokens, open_view
from raystudy.artifacts.storage import Storage

if TYPE_CHECKING:
    from raystudy.train.evaluation import ValidationDocuments

    Documents = Mapping[str, ValidationDocuments]  # by digest


@dataclass(frozen=True)
class Workplace:
    """Where a run is made: `validation` maps a set's digest to its name; `about` is in every record's provenance.

    `downstream` maps the digest of a downstream task's items to its name. `notes` takes what a person should know of
    the run, beside its status.
    """

    storage: Storage
    validation: Mapping[str, str]
    device: str
    about: Mapping[str, Any]
    micro_batch_tokens: int | Literal["auto"] = "auto"
    checkpoint_minutes: float | None = None
    downstream: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def view(self, digest: str) -> RecipeView:
        """The shards of a recipe."""
        return _view(self.storage.root, digest)

    def documents(self) -> "Documents":
        """The documents of all validation sets."""
        return {digest: self.documents_of(digest) for digest in self.validation}

    def documents_of(self, digest: str) -> "ValidationDocuments":
        """The documents of one validation set."""
        return _documents(self.storage.root, digest)


@lru_cache(maxsize=8)
def _view(root: StoragePath, digest: str) -> RecipeView:
    return open_view(root, digest)


@lru_cache(maxsize=64)
def _documents(root: StoragePath, digest: str) -> "ValidationDocuments":
    from raystudy.train.evaluation import ValidationDocuments

    shard: TokenShard = open_tokens(root, digest)
    return ValidationDocuments(shard.documents(), [int(count) for count in shard.document_bytes], shard.overlap)
