"""Many small records in few files, for readers far away: the only reader and writer of `studies/<name>/compacted/`.

`<kind>-<digest>.zip` holds copies of files below `runs/` under their names there, and `index.json`, which gives of each
the identity (ETag, generation) of the object it was read from. Nothing is ever decided by a copy alone: a reader lists
the objects, and takes a copy only for an object that is there with that identity. So what was pruned, moved aside or
made anew since is never read from here, and a damaged or missing file costs time only. Written by the driver that holds
the study, on remote storages only; a local file is opened faster than looked up.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raystudy.artifacts.files import StoragePath, names_in, read_many, remove_file, write_bytes
from raystudy.errors import StorageError

FORMAT = "raystudy-compacted/1"
FEWEST = 100  # files that are worth a file of copies
_MOST_FILES = 8  # of a kind; beyond, they are made one
_INDEX = "index.json"
_MOST_BYTES = 2**30  # of a file's contents unpacked; what says that it holds more is not opened
_KINDS = {"result.json": "records", "attempts": "records", "eval": "evaluations", "tasks": "evaluations"}


@dataclass(frozen=True)
class Copy:
    """The content of an object, and the identity that the object had."""

    identity: str
    content: bytes


def kind_of(name: str) -> str | None:
    """In which kind of file a run's file is copied (`name`: run id and path below it); None: it is not."""
    part = name.split("/")[1] if "/" in name else ""
    return "curves" if part == "curve.jsonl" else _KINDS.get(part) if not part.startswith(".") else None


def read_compacted(folder: StoragePath, kinds: Iterable[str]) -> dict[str, dict[str, Copy]]:
    """The copies of these kinds by file name, each by the name of what it is a copy of; without damaged files.

    Raises:
        UnreadableError: the storage cannot be read.
    """
    chosen = tuple(f"{kind}-" for kind in kinds)
    names = [name for name in sorted(names_in(folder)) if name.startswith(chosen) and name.endswith(".zip")]
    found = {}
    for name, content in zip(names, read_many([folder / name for name in names]), strict=True):
        try:
            found[name] = unpack(content or b"")
        except StorageError:
            continue  # verify tells of it; here the objects themselves are read instead
    return found


def unpack(content: bytes) -> dict[str, Copy]:
    """The copies in a file, by name; raises StorageError where it is not what was written."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            if sum(member.file_size for member in file.infolist()) > _MOST_BYTES:
                raise ValueError("it says that it holds more than a gibibyte")
            index = json.loads(file.read(_INDEX))
            if index["format"] != FORMAT:
                raise ValueError(f"its format is {index['format']!r}")
            return {name: Copy(str(identity), file.read(name)) for name, identity in index["files"].items()}
    except (
        Exception
    ) as error:  # all is in memory: whatever zipfile and its decompressors raise, the content is to blame
        raise StorageError(f"copies of records must be a file of format {FORMAT}, but {error}") from error


def pack(copies: Mapping[str, Copy]) -> bytes:
    """A file of these copies; equal ones give equal bytes."""
    buffer = io.BytesIO()
    index = {"format": FORMAT, "files": {name: copy.identity for name, copy in sorted(copies.items())}}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as file:
        for name, content in [(_INDEX, json.dumps(index).encode()), *((n, c.content) for n, c in copies.items())]:
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def write_compacted(
    folder: StoragePath, kind: str, new: Mapping[str, Copy], old: Mapping[str, Mapping[str, Copy]]
) -> None:
    """Write a file of the `new` copies; where there are many files by then (`old`), one of all, and remove those.

    `new` holds what is to be kept of `old` too, once they are made one.
    """
    content = pack(new)
    name = f"{kind}-{hashlib.sha256(content).hexdigest()[:32]}.zip"
    write_bytes(folder / name, content)
    for replaced in old:
        if replaced != name:
            remove_file(folder / replaced)


def to_write(
    kind: str, current: Mapping[str, str], held: Mapping[str, Mapping[str, Copy]]
) -> tuple[list[str], Sequence[str]]:
    """Of the objects that are there (`current`: name and identity), those to copy now, and the files this replaces.

    None to copy: it is not worth it yet.
    """
    own = {file: copies for file, copies in held.items() if file.startswith(f"{kind}-")}
    known = {name: copy.identity for copies in own.values() for name, copy in copies.items()}
    lacking = [name for name, identity in current.items() if known.get(name) != identity]
    if len(lacking) < FEWEST:
        return [], ()
    return (list(current), list(own)) if len(own) + 1 > _MOST_FILES else (lacking, ())
