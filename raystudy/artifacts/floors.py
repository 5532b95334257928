"""Trigram floors that have been worked out: `floors/<recipe's digest>/<validation set's digest>.json`.

They depend on the two digests alone and are shared by all runs; one that is torn counts as not there.
"""

import math

from raystudy.artifacts.files import StoragePath, read_json, write_json
from raystudy.errors import StorageError, UnreadableError

FLOOR_FORMAT = "raystudy-floor/1"


def floor_path(root: StoragePath, view: str, validation: str) -> StoragePath:
    """Where the floor of the recipe `view` on the set `validation` lies."""
    return root / "floors" / view / f"{validation}.json"


def write_floor(root: StoragePath, view: str, validation: str, loss: float) -> None:
    """Keep a trigram floor, in nats per token."""
    write_json(floor_path(root, view, validation), {"format": FLOOR_FORMAT, "trigram_loss": loss}, durable=False)


def read_floor(root: StoragePath, view: str, validation: str) -> float | None:
    """The floor kept, or None."""
    try:
        value = read_json(floor_path(root, view, validation))
    except UnreadableError:
        raise
    except StorageError:
        return None
    loss = value.get("trigram_loss") if isinstance(value, dict) and value.get("format") == FLOOR_FORMAT else None
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) and loss >= 0 else None
