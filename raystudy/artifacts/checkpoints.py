"""The checkpoint of a run in progress: the only reader and writer of `runs/<run_id>/checkpoint.safetensors`.

One file, written whole or not at all: tensors, and in its header what is no tensor as JSON, the run it belongs to and a
checksum of all. Arrays in and out; knows nothing of models. Reading runs no code.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.files import storage_errors, write_bytes
from raystudy.errors import RaystudyError, StorageError

FORMAT = "raystudy-checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after `step` steps: named arrays, and plain data beside them (`about`, as JSON holds it)."""

    run_id: str
    step: int
    arrays: Mapping[str, npt.NDArray[Any]]
    about: Mapping[str, Any]


def checkpoint_path(run_folder: Path) -> Path:
    """Where a run's checkpoint lies."""
    return run_folder / "checkpoint.safetensors"


def write_checkpoint(run_folder: Path, checkpoint: Checkpoint) -> None:
    """Put `checkpoint` in the place of the one before.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    from safetensors.numpy import save  # an optional package, needed only where something trains

    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    about = json.dumps({"run_id": checkpoint.run_id, "step": checkpoint.step, "about": checkpoint.about})
    metadata = {"format": FORMAT, "about": about, "sha256": _checksum(arrays, about)}
    write_bytes(checkpoint_path(run_folder), save(arrays, metadata), durable=False)


def read_checkpoint(run_folder: Path, run_id: str) -> Checkpoint | None:
    """The checkpoint of the run `run_id`, or None when there is none.

    Raises:
        StorageError: the file is torn, or of another format.
        RaystudyError: it is that of another run.
    """
    from safetensors import SafetensorError, safe_open

    path = checkpoint_path(run_folder)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        about = json.loads(metadata["about"])
        found, step, inner = str(about["run_id"]), int(about["step"]), dict(about["about"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} must be a checkpoint, but is torn or foreign ({error})") from error
    if metadata.get("format") != FORMAT:
        raise StorageError(f"{path} must be a checkpoint of format {FORMAT}, but is {metadata.get('format')!r}")
    if metadata.get("sha256") != _checksum(arrays, metadata["about"]):
        raise StorageError(f"{path} must be a checkpoint, but its checksum is not that of its content")
    if found != run_id:
        raise RaystudyError(
            f"{path} must be a checkpoint of run {run_id}, but is one of run {found}, whose settings are others. "
            f"Remove the file to train from the beginning"
        )
    return Checkpoint(found, step, arrays, inner)


def remove_checkpoint(run_folder: Path) -> None:
    """Remove the run's checkpoint, if there is one."""
    with storage_errors(checkpoint_path(run_folder)), contextlib.suppress(FileNotFoundError):
        checkpoint_path(run_folder).unlink()


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
