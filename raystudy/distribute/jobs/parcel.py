"""What of a study must travel with a job, and where it lies in the job's working folder.

The job's working folder is a copy of parts of a folder here, so that relative paths in the study keep leading to the
same files. What travels: the study file, its catalogues and search spaces, the tokenizer, text sources, tables and
tasks that the study names by relative paths, the program text of its own trainers, and raystudy itself. What a study
names by absolute path is read on the nodes as it stands. Knows nothing of Ray.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import raystudy
from raystudy.distribute.jobs.named_paths import Named, named_paths
from raystudy.distribute.jobs.withheld import CLOSED_FOLDERS, why_withheld
from raystudy.errors import DataError, SpecError
from raystudy.recipes.sources.text import find_matches
from raystudy.specs.load import LoadedStudy, load_study

LIMIT_BYTES = 100 * 1024 * 1024  # Ray's dashboard takes no larger request; counted before compression
# Of a trainer's folder, what programs are made of; data are named with --include or lie on storage that nodes share.
_PROGRAM_SUFFIXES = frozenset({".py", ".pyi", ".sh", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".txt", ".md"})
_LARGEST_PROGRAM_BYTES = 1024 * 1024
_PACKAGE = "raystudy"


@dataclass
class Parcel:
    """The files that travel: their place in the job's working folder, and where they lie here."""

    root: Path
    study: PurePosixPath = field(default_factory=PurePosixPath)
    files: dict[PurePosixPath, Path] = field(default_factory=dict)
    num_own: int = 0  # of them raystudy's
    on_nodes: list[str] = field(default_factory=list)  # absolute paths that every node must see
    left_out: list[str] = field(default_factory=list)  # with the reason

    @property
    def num_bytes(self) -> int:
        """Of all files, before compression."""
        return sum(file.stat().st_size for file in self.files.values())

    def add(self, file: Path, what: str, *, is_named: bool = True) -> None:
        """Add a file that lies below the root; one that is withheld is refused if it is named, else left out.

        Raises:
            SpecError: the file may not travel, or lies elsewhere.
        """
        place = self.place_of(file, what)
        why = why_withheld(place, file, self.root, is_named=is_named)
        if why and is_named:
            raise SpecError(f"{what} must be a file that may travel, but {file} {why}. Give the text another place")
        if why:
            self.leave_out(place, why)
        else:
            self._put(place, file)

    def leave_out(self, place: object, why: str) -> None:
        """Note what does not travel, and why."""
        told = f"{place} ({why})"
        self.left_out += [] if told in self.left_out else [told]

    def place_of(self, path: Path, what: str) -> PurePosixPath:
        """Where a path is in the working folder; raises SpecError where it is not below the root."""
        absolute = Path(os.path.normpath(path))
        if not absolute.is_relative_to(self.root):
            raise SpecError(
                f"{what} must lie below the working folder {self.root} to travel with the job, but got {path}. Name "
                f"a folder above both with --working-dir, or put it on storage that all nodes see and write its "
                f"absolute path in the study"
            )
        place = PurePosixPath(absolute.relative_to(self.root).as_posix())
        try:
            str(place).encode()
        except UnicodeEncodeError as error:
            raise SpecError(f"{what} must have a name of UTF-8 text to travel, but got {place!r}. Rename it") from error
        return place

    def _put(self, place: PurePosixPath, file: Path) -> None:
        there = self.files.setdefault(place, file)
        if there != file and not there.samefile(file):
            raise SpecError(f"one file must lie at {place} in the job, but both {there} and {file} would. Rename one")

    def add_raystudy(self) -> None:
        """Add raystudy itself, as it runs here: then the cluster works by the same code, installed there or not."""
        package = Path(raystudy.__file__).resolve().parent
        for file in sorted(package.rglob("*")):
            relative = file.relative_to(package)
            if file.is_file() and not CLOSED_FOLDERS & set(relative.parts):
                self._put(PurePosixPath(_PACKAGE) / relative.as_posix(), file)
                self.num_own += 1


def working_folder(study: Path, given: str | None) -> Path:
    """The folder whose parts travel: the one given, else the current one if the study lies in it, else the study's.

    Raises:
        SpecError: it is no folder, or the study lies elsewhere.
    """
    beside = study.absolute().parent.resolve()
    if given is None:
        here = Path.cwd().resolve()
        return here if beside.is_relative_to(here) else beside
    folder = Path(given).resolve()
    if not folder.is_dir():
        raise SpecError(f"--working-dir must be a folder, but got {given!r}")
    return folder


def pack(loaded: LoadedStudy, root: Path, include: Sequence[str] = (), *, with_raystudy: bool = True) -> Parcel:
    """The parcel of a study; `include`: files and folders below `root` that travel besides.

    Raises:
        SpecError: something that must travel lies outside `root`, or may not travel.
        DataError: a file that the study names is not there.
    """
    parcel = Parcel(root)
    study = loaded.path.absolute().parent.resolve() / loaded.path.name
    parcel.study = parcel.place_of(study, "the study file")
    for file in sorted(loaded.files):
        is_absolute = any(str(file) in text for text in (loaded.text, *loaded.overrides))
        if is_absolute and not _settled(file).is_relative_to(root):
            parcel.on_nodes.append(f"{file} (a file of the study)")
        else:
            parcel.add(_settled(file), "a file of the study")
    for named, is_absolute in _named_paths(loaded, parcel):
        if is_absolute:
            parcel.on_nodes.append(f"{named.path} ({named.what})")
        else:
            _add_named(parcel, named)
    for path in include:
        if not os.path.exists(path):
            raise SpecError(f"--include must name a file or a folder that is there, but got {path!r}")
        _add_tree(parcel, Path(path).resolve(), "--include", is_named=os.path.isfile(path))
    if with_raystudy:
        parcel.add_raystudy()
    return parcel


def _settled(path: Path) -> Path:
    return path.absolute().parent.resolve() / path.name


def _named_paths(loaded: LoadedStudy, parcel: Parcel) -> Iterator[tuple[Named, bool]]:
    """Every path that the study names, and whether it was written as an absolute one.

    The study is loaded a second time from a copy of its files in another folder: what moves with it is relative.
    """
    with tempfile.TemporaryDirectory(prefix="raystudy-") as elsewhere:
        copy = Path(elsewhere).resolve()
        for place, file in parcel.files.items():
            (copy / place).parent.mkdir(parents=True, exist_ok=True)
            (copy / place).write_bytes(file.read_bytes())
        moved = load_study(copy / parcel.study, loaded.overrides).spec
    pairs = zip(named_paths(loaded.spec), named_paths(moved), strict=True)
    yield from [(here, here.path == there.path) for here, there in pairs]


def _add_named(parcel: Parcel, named: Named) -> None:
    if named.kind == "files":
        parcel.place_of(Path(named.path), named.what)
        for file in find_matches([named.path], named.what):
            parcel.add(file, named.what)
        return
    folder = Path(named.path)
    parcel.place_of(folder, f"the folder of {named.what}")
    if not folder.is_dir():
        raise DataError(f"the folder of {named.what} must be there, but {folder} is not. Correct it")
    if named.kind == "folder":
        _add_tree(parcel, folder, named.what)
        return
    _add_programs(parcel, folder, named.what)
    for word in named.words:
        file = Path(os.path.normpath(folder / word))
        if not os.path.isabs(word) and file.is_file():
            parcel.add(file, named.what)


def _add_programs(parcel: Parcel, folder: Path, what: str) -> None:
    """Add what of a trainer's folder looks like its programs; the rest is told."""
    other: Counter[str] = Counter()
    for file in _files_below(folder, parcel):
        if file.suffix not in _PROGRAM_SUFFIXES:
            other[file.suffix or "no suffix"] += 1
        elif (size := file.stat().st_size) > _LARGEST_PROGRAM_BYTES:
            parcel.leave_out(parcel.place_of(file, what), f"{size:,} bytes is much for a program")
        else:
            parcel.add(file, what, is_named=False)
    if other:
        kinds = ", ".join(f"{count} with {suffix}" for suffix, count in sorted(other.items()))
        parcel.leave_out(f"{other.total()} files in {parcel.place_of(folder, what)}/", f"no programs: {kinds}")


def _add_tree(parcel: Parcel, path: Path, what: str, *, is_named: bool = False) -> None:
    parcel.place_of(path, what)
    for file in [path] if path.is_file() else _files_below(path, parcel):
        parcel.add(file, what, is_named=is_named)


def _files_below(folder: Path, parcel: Parcel) -> Iterator[Path]:
    """Files below a folder, sorted; links to folders or out of the root and hidden folders are left out and told.

    Of folders that are closed to all nothing is told.
    """
    for where, folders, names in os.walk(folder):
        for name in sorted(set(folders) - CLOSED_FOLDERS):
            why = (
                "is hidden"
                if name.startswith(".")
                else "is a link to a folder"
                if Path(where, name).is_symlink()
                else ""
            )
            if why:
                parcel.leave_out(f"{parcel.place_of(Path(where, name), 'a folder')}/", why)
        folders[:] = sorted(name for name in folders if name not in CLOSED_FOLDERS and not name.startswith("."))
        for name in sorted(names):
            file = Path(where, name)
            if not file.is_file():
                parcel.leave_out(parcel.place_of(file, "a file"), "is no file, or a link to none")
            elif not file.resolve().is_relative_to(parcel.root):
                parcel.leave_out(parcel.place_of(file, "a file"), f"is a link out of {parcel.root}")
            else:
                yield file
