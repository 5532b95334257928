"""What lies in a folder of a storage, whole: walked where it is local, from one listing where it is remote.

Knows nothing of what the files mean. Links are not followed.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from raystudy.artifacts import remote_files
from raystudy.artifacts.files import StoragePath


@dataclass(frozen=True)
class Node:
    """A file, with its bytes, or a folder, with what is in it by name."""

    path: StoragePath
    num_bytes: int = 0
    is_folder: bool = False
    below: tuple["Node", ...] = field(default=())

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    def total_bytes(self) -> int:
        """Bytes of the file, or of all files below the folder."""
        return self.num_bytes + sum(child.total_bytes() for child in self.below)


def nodes(folder: StoragePath) -> Iterator[Node]:
    """What lies in `folder`, by name; nothing where that is no folder. What vanishes meanwhile is left out.

    Raises:
        OSError: a local folder cannot be read.
        UnreadableError: the remote storage cannot be.
    """
    if isinstance(folder, Path):
        for path in _entries(folder):
            yield _walked(path)
        return
    grouped: dict[str, dict[str, remote_files.Found]] = {}
    for name, found in remote_files.below(folder).items():
        first, _, rest = name.partition("/")
        grouped.setdefault(first, {})[rest] = found
    for first in sorted(grouped):
        yield _listed(folder / first, grouped[first])


def _entries(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(folder.iterdir()) if folder.is_dir() else []
    return []


def _walked(path: Path) -> Node:
    if path.is_dir() and not path.is_symlink():
        return Node(path, is_folder=True, below=tuple(_walked(child) for child in _entries(path)))
    with suppress(FileNotFoundError):
        return Node(path, os.lstat(path).st_size)
    return Node(path)


def _listed(path: StoragePath, found: dict[str, remote_files.Found]) -> Node:
    if "" in found:  # an object; a store may hold one of a folder's name beside what is below it
        return Node(path, found[""].num_bytes)
    grouped: dict[str, dict[str, remote_files.Found]] = {}
    for name, each in found.items():
        first, _, rest = name.partition("/")
        grouped.setdefault(first, {})[rest] = each
    return Node(path, is_folder=True, below=tuple(_listed(path / first, grouped[first]) for first in sorted(grouped)))
