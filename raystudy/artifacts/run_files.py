"""The files below `runs/`, read one by one, or of a remote storage many together: few requests, whatever the distance.

While `together` lasts, one listing says what is there. What is asked for then comes from memory, if it was read before
as that very object; else from the compacted files; else from the storage, many at a time. Knows no formats.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from raystudy.artifacts import remote_files
from raystudy.artifacts.compacted import Copy, kind_of, read_compacted, to_write, write_compacted
from raystudy.artifacts.damage import Look, look_at_content, read_seen
from raystudy.artifacts.files import StoragePath, names_in

FEW = 8  # runs that are read one by one rather than after a listing
_MOST_HELD_BYTES = 2**28  # compressed


class RunFiles:
    """All files below `root/runs`, by their path there: `<run_id>/result.json`."""

    def __init__(self, root: StoragePath) -> None:
        self._runs = root / "runs"
        self._shown = str(self._runs)
        self._compacted: StoragePath | None = None
        self._listed: dict[str, remote_files.Found] | None = None
        self._of_run: dict[str, list[str]] = {}
        self._held: dict[str, Copy] = {}  # contents compressed
        self._held_bytes = 0
        self._changed: set[str] = set()  # since the listing
        self._tried: set[str] = set()  # kinds of compacted files that were read since the listing

    def path(self, name: str) -> StoragePath:
        """Where a file lies."""
        return self._runs / name

    def shown(self, name: str) -> str:
        """Where a file lies, to be told."""
        return f"{self._shown}/{name}"

    @contextmanager
    def together(self, num_runs: int, compacted: StoragePath | None = None) -> Iterator[None]:
        """Within this, reads rest on one listing, which is worth it for many runs; `compacted`: where copies may lie.

        Raises:
            UnreadableError: the storage cannot be listed.
        """
        if isinstance(self._runs, Path) or self._listed is not None or num_runs <= FEW:
            yield
            return
        self._listed, self._compacted = remote_files.below(self._runs), compacted
        for name in self._listed:
            self._of_run.setdefault(name.split("/")[0], []).append(name)
        try:
            yield
        finally:
            self._listed, self._compacted, self._of_run = None, None, {}
            self._tried.clear()
            self._changed.clear()
            if self._held_bytes > _MOST_HELD_BYTES:
                self._held, self._held_bytes = {}, 0

    def names(self, run_id: str, folder: str) -> list[str]:
        """The names in a folder of a run; raises UnreadableError."""
        if self._listed is None:
            return names_in(self._runs / run_id / folder)
        start = f"{run_id}/{folder}/"
        return [name.removeprefix(start) for name in self._of_run.get(run_id, ()) if name.startswith(start)]

    def started(self) -> set[str]:
        """Ids of the runs with a spec or a result; raises UnreadableError."""
        begun = {"spec.json", "result.json"}
        if not isinstance(self._runs, Path):
            parts = (name.split("/") for name in remote_files.below(self._runs))
            return {part[0] for part in parts if len(part) == 2 and part[1] in begun}
        return {name for name in names_in(self._runs) if not begun.isdisjoint(names_in(self._runs / name))}

    def fetch(self, names: Iterable[str]) -> None:
        """Read what is listed of these and not held, many at a time; outside `together` nothing.

        Raises:
            UnreadableError: the storage cannot be read.
        """
        if self._listed is None:
            return
        lacking = [name for name in dict.fromkeys(names) if name in self._listed and not self._is_held(name)]
        kinds = {kind for name in lacking if (kind := kind_of(name))} - self._tried
        if kinds and self._compacted is not None and len(lacking) > FEW:
            self._tried |= kinds
            for copies in read_compacted(self._compacted, kinds).values():
                for name, copy in copies.items():
                    if name in self._listed and self._listed[name].identity == copy.identity:
                        self._hold(name, copy.content)
            lacking = [name for name in lacking if not self._is_held(name)]
        if len(lacking) > 1 and not isinstance(self._runs, Path):
            runs = self._runs
            for name, content in zip(lacking, remote_files.read_many([runs / name for name in lacking]), strict=True):
                if content is not None:
                    self._hold(name, content)

    def fetch_all(self, run_ids: Iterable[str]) -> None:
        """`fetch` all that these runs left that is copied to compacted files; raises UnreadableError."""
        self.fetch(name for run_id in run_ids for name in self._of_run.get(run_id, ()) if kind_of(name))

    def read_seen(self, name: str) -> tuple[bytes | None, Look]:
        """The content of a file, None where there is none, and what tells that file from a later one of its name.

        Raises:
            UnreadableError: it cannot be read.
        """
        if self._listed is None or name in self._changed:
            return read_seen(self.path(name))
        if name not in self._listed:
            return None, None
        if self._is_held(name):
            content = zlib.decompress(self._held[name].content)
            return content, look_at_content(content)
        return read_seen(self.path(name))

    def forget(self, name: str) -> None:
        """A file is not what was listed any more."""
        self._changed.add(name)

    def compact(self, run_ids: Iterable[str], folder: StoragePath) -> None:
        """Copy what these runs left into few files in `folder`, where that is worth it; remote storages only.

        Raises:
            StorageError: the storage cannot be read or written.
        """
        chosen = list(run_ids)
        with self.together(len(chosen), folder):
            if self._listed is None:
                return
            own = [name for run_id in chosen for name in self._of_run.get(run_id, ())]
            for kind in sorted({kind for name in own if (kind := kind_of(name))}):
                held = read_compacted(folder, [kind])
                current = {name: self._listed[name].identity for name in own if kind_of(name) == kind}
                names, replaced = to_write(kind, current, held)
                if names:
                    self.fetch(names)
                    copies = {name: self._copy(name) for name in names if self._is_held(name)}
                    write_compacted(folder, kind, copies, {file: held[file] for file in replaced})

    def differing(self, copies: Mapping[str, Copy]) -> list[str]:
        """The copies of objects that are there with the identity copied from, and hold something else.

        Raises:
            UnreadableError: the storage cannot be read.
        """
        if isinstance(self._runs, Path):
            return []
        listed, runs = remote_files.below(self._runs), self._runs
        names = [name for name, copy in copies.items() if name in listed and listed[name].identity == copy.identity]
        contents = zip(names, remote_files.read_many([runs / name for name in names]), strict=True)
        return [name for name, content in contents if content is not None and content != copies[name].content]

    def _copy(self, name: str) -> Copy:
        held = self._held[name]
        return Copy(held.identity, zlib.decompress(held.content))

    def _is_held(self, name: str) -> bool:
        assert self._listed is not None
        return name in self._held and self._held[name].identity == self._listed[name].identity

    def _hold(self, name: str, content: bytes) -> None:
        if self._listed is None or not self._listed[name].identity:
            return  # what cannot be told from a later object is read anew each time
        compressed = zlib.compress(content, 1)
        before = self._held.get(name)
        self._held_bytes += len(compressed) - (len(before.content) if before is not None else 0)
        self._held[name] = Copy(self._listed[name].identity, compressed)
