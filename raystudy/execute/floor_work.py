"""The trigram floors of a recipe: read where a run before has left them, else worked out and kept."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.floors import read_floor, write_floor
from raystudy.artifacts.shards import RecipeView

if TYPE_CHECKING:
    from raystudy.train.evaluation import ValidationDocuments


def trigram_floors(
    root: StoragePath, view: RecipeView, validation: "Mapping[str, ValidationDocuments]"
) -> dict[str, float | None]:
    """Nats per token on each validation set, by digest; None for a recipe that is too large to count."""
    found = {digest: read_floor(root, view.digest, digest) for digest in validation}
    lacking = {digest: validation[digest] for digest, loss in found.items() if loss is None}
    if lacking:
        from raystudy.train.floors import trigram_losses

        for digest, loss in trigram_losses(view, lacking).items():
            write_floor(root, view.digest, digest, loss)
            found[digest] = loss
    return found
