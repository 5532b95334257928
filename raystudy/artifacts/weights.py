"""Kept weights of a run: the only reader and writer of `weights-<step>.safetensors` and `branch-<step>.safetensors`.

Weights of a read-out have its digest after the step. A branch point holds weights and optimizer. Arrays in and out;
knows nothing of models. The format holds tensors only, so reading runs no code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.files import StoragePath, read_bytes, write_bytes
from raystudy.errors import StorageError
from raystudy.specs.base import digest
from raystudy.specs.reading import Readout

Arrays = Mapping[str, npt.NDArray[Any]]
OwnArrays = dict[str, npt.NDArray[Any]]

KEPT_BYTES = 50_000_000  # weights up to this size are kept by default
BRANCH_BYTES = 3 * KEPT_BYTES  # a branch point: the weights, and the two numbers that AdamW holds of each


def weights_path(run_folder: StoragePath, step: int, readout: Readout | None = None) -> StoragePath:
    """Where the weights after `step` steps lie, those of a read-out apart."""
    name = "" if readout is None else f"-{digest(readout)[:16]}"
    return run_folder / f"weights-{step}{name}.safetensors"


def branch_path(run_folder: StoragePath, step: int) -> StoragePath:
    """Where that lies from which a branch starts after `step` steps."""
    return run_folder / f"branch-{step}.safetensors"


def write_weights(run_folder: StoragePath, step: int, arrays: Arrays, readout: Readout | None = None) -> bool:
    """Keep `arrays` unless they are larger than KEPT_BYTES; says whether they were kept."""
    return _write(weights_path(run_folder, step, readout), arrays, KEPT_BYTES)


def write_branch_point(run_folder: StoragePath, step: int, arrays: Arrays) -> bool:
    """Keep weights and optimizer unless they are larger than BRANCH_BYTES; says whether they were kept."""
    return _write(branch_path(run_folder, step), arrays, BRANCH_BYTES)


def _write(path: StoragePath, arrays: Arrays, most_bytes: int) -> bool:
    from safetensors.numpy import save  # an optional package, needed only where something trains

    if sum(array.nbytes for array in arrays.values()) > most_bytes:
        return False
    content = save({name: np.asarray(a, order="C") for name, a in arrays.items()})
    write_bytes(path, content, durable=False)
    return True


def read_weights(run_folder: StoragePath, step: int, readout: Readout | None = None) -> OwnArrays | None:
    """The kept weights, or None when there are none.

    Raises:
        StorageError: the file is torn.
    """
    return _read(weights_path(run_folder, step, readout))


def read_branch_point(run_folder: StoragePath, step: int) -> OwnArrays | None:
    """Kept weights and optimizer, or None when there are none.

    Raises:
        StorageError: the file is torn.
    """
    return _read(branch_path(run_folder, step))


def _read(path: StoragePath) -> OwnArrays | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read_bytes(path)  # bounded by BRANCH_BYTES
    if content is None:
        return None
    try:
        return dict(load(content))
    except SafetensorError as error:
        raise StorageError(f"{path} must hold weights, but is torn ({error})") from error
