"""Kept weights of a run: the only reader and writer of `weights-<step>.safetensors`.

Arrays in and out; knows nothing of models. The format holds tensors only, so reading runs no code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.files import write_bytes
from raystudy.errors import StorageError

KEPT_BYTES = 50_000_000  # weights up to this size are kept by default


def weights_path(run_folder: Path, step: int) -> Path:
    """Where the weights after `step` steps lie."""
    return run_folder / f"weights-{step}.safetensors"


def write_weights(run_folder: Path, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Keep `arrays` unless they are larger than KEPT_BYTES; says whether they were kept."""
    from safetensors.numpy import save  # an optional package, needed only where something trains

    if sum(array.nbytes for array in arrays.values()) > KEPT_BYTES:
        return False
    content = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    write_bytes(weights_path(run_folder, step), content, durable=False)
    return True


def read_weights(run_folder: Path, step: int) -> dict[str, npt.NDArray[Any]] | None:
    """The kept arrays, or None when there are none.

    Raises:
        StorageError: the file is torn.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = weights_path(run_folder, step)
    if not path.exists():
        return None
    try:
        return dict(load(path.read_bytes()))
    except SafetensorError as error:
        raise StorageError(f"{path} must hold weights, but is torn ({error})") from error
