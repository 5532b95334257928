"""Checkpoints of a run in progress: the only reader and writer of `runs/<run_id>/checkpoint.safetensors`.

A run of several workers has `checkpoints/step-<step>.safetensors` instead, of which the newest are kept. Each is one
file, written whole or not at all: tensors, and in its header what is no tensor as JSON, the run it belongs to and a
checksum of all. Arrays in and out; knows nothing of models. Reading runs no code.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.artifacts.files import StoragePath, exists, names_in, remove_file
from raystudy.artifacts.node_cache import fetched, write_parts
from raystudy.errors import RaystudyError, StorageError

FORMAT = "raystudy-checkpoint/1"
_KINDS = {"f": "F", "i": "I", "u": "U"}  # of numbers, as numpy and as safetensors name them
_STEP = re.compile(r"step-[0-9]{8,}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after `step` steps: named arrays, and plain data beside them (`about`, as JSON holds it)."""

    run_id: str
    step: int
    arrays: Mapping[str, npt.NDArray[Any]]
    about: Mapping[str, Any]


def checkpoint_path(run_folder: StoragePath) -> StoragePath:
    """Where a run's checkpoint lies."""
    return run_folder / "checkpoint.safetensors"


def write_checkpoint(run_folder: StoragePath, checkpoint: Checkpoint) -> None:
    """Put `checkpoint` in the place of the one before.

    Raises:
        UnwritableError: the storage cannot be written.
        NodeFullError: it is a remote one, and this node has no room for the file on its way there.
    """
    _write(checkpoint_path(run_folder), checkpoint)


def write_step_checkpoint(run_folder: StoragePath, checkpoint: Checkpoint) -> None:
    """Put `checkpoint` beside those of earlier steps; raises as `write_checkpoint`."""
    _write(_steps_folder(run_folder) / f"step-{checkpoint.step:08d}.safetensors", checkpoint)


def step_checkpoints(run_folder: StoragePath) -> list[StoragePath]:
    """The checkpoints that are named by their step, whole or torn; newest first."""
    names = [name for name in names_in(_steps_folder(run_folder)) if _STEP.fullmatch(name)]
    return [_steps_folder(run_folder) / name for name in sorted(names, reverse=True)]


def remove_step_checkpoints(run_folder: StoragePath, all_but_newest: int = 0) -> None:
    """Remove the checkpoints that are named by their step, but the newest so many.

    Raises:
        UnwritableError: the storage cannot be written.
    """
    for path in step_checkpoints(run_folder)[all_but_newest:]:
        remove_file(path)


def _steps_folder(run_folder: StoragePath) -> StoragePath:
    return run_folder / "checkpoints"


def _write(path: StoragePath, checkpoint: Checkpoint) -> None:
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    about = json.dumps({"run_id": checkpoint.run_id, "step": checkpoint.step, "about": checkpoint.about})
    metadata = {"format": FORMAT, "about": about, "sha256": _checksum(sorted(arrays.items()), about)}
    write_parts(path, list(_safetensors(arrays, metadata)), durable=False)


def _safetensors(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A file of safetensors in parts, none of which is a copy of an array, as the package's own `save` would make.

    Source: https://huggingface.co/docs/safetensors, "Format": the length of the header in 8 bytes, the header as JSON,
    then all arrays end to end. The widest come first, so that each lies where its own type may.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    place = 0
    for name, array in ordered:
        kind = "BOOL" if array.dtype.kind == "b" else _KINDS[array.dtype.kind] + str(8 * array.itemsize)
        offsets = [place, place := place + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in ordered:
        yield array.reshape(-1).view(np.uint8).data


def read_checkpoint(run_folder: StoragePath, run_id: str) -> Checkpoint | None:
    """The checkpoint of the run `run_id`, or None when there is none.

    Raises:
        StorageError: the file is torn, or of another format.
        RaystudyError: it is that of another run.
    """
    return read_checkpoint_file(checkpoint_path(run_folder), run_id)


def read_checkpoint_file(path: StoragePath, run_id: str) -> Checkpoint | None:
    """The checkpoint of the run `run_id` that lies at `path`, or None when there is none; raises as above."""
    with fetched(path) as here:
        return None if here is None else _read(path, here, run_id, is_kept=True)


def check_checkpoint_file(path: StoragePath, run_id: str) -> None:
    """See that the checkpoint at `path` is whole, with one of its arrays in memory at a time; raises as above."""
    with fetched(path) as here:
        if here is not None:
            _read(path, here, run_id, is_kept=False)


def _read(path: StoragePath, here: Path, run_id: str, *, is_kept: bool) -> Checkpoint:
    """The checkpoint at `path`, which `here` is a local copy of, checked; without its arrays unless they are kept."""
    from safetensors import SafetensorError, safe_open

    arrays: dict[str, npt.NDArray[Any]] = {}

    def named(file: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for name in sorted(file.keys()):
            array = file.get_tensor(name)
            if is_kept:
                arrays[name] = array
            yield name, array

    try:
        with safe_open(here, framework="numpy") as file:
            metadata = file.metadata() or {}
            checksum = _checksum(named(file), metadata["about"])
        about = json.loads(metadata["about"])
        found, step, inner = str(about["run_id"]), int(about["step"]), dict(about["about"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} must be a checkpoint, but is torn or foreign ({error})") from error
    if metadata.get("format") != FORMAT:
        raise StorageError(f"{path} must be a checkpoint of format {FORMAT}, but is {metadata.get('format')!r}")
    if metadata.get("sha256") != checksum:
        raise StorageError(f"{path} must be a checkpoint, but its checksum is not that of its content")
    if found != run_id:
        raise RaystudyError(
            f"{path} must be a checkpoint of run {run_id}, but is one of run {found}, whose settings are others. "
            f"Remove the file to train from the beginning"
        )
    return Checkpoint(found, step, arrays, inner)


def has_checkpoint(run_folder: StoragePath) -> bool:
    """Whether the run has a checkpoint, of either kind."""
    return exists(checkpoint_path(run_folder)) or bool(step_checkpoints(run_folder))


def remove_checkpoint(run_folder: StoragePath) -> None:
    """Remove the run's checkpoints, if there are any."""
    remove_step_checkpoints(run_folder)
    remove_file(checkpoint_path(run_folder))


def _checksum(arrays: Iterable[tuple[str, npt.NDArray[Any]]], about: str) -> str:
    """Of arrays in the order of their names, and what is beside them."""
    digest = hashlib.sha256(about.encode())
    for name, given in arrays:
        array = np.ascontiguousarray(given)
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
