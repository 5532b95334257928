"""Makes manifest.json again: `python -m raystudy.recipes.embedded.make_manifest`.

Chooses files of the installed packages in hash order up to a byte budget per domain and package,
splits them into training and validation by file, and lists the validation documents that share
wording with any training document. Prints what was found, what was chosen and what was dropped.
Not needed by users: only when the pinned versions or the choice change.
"""

import argparse
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raystudy.recipes.documents import document_key
from raystudy.recipes.embedded.manifest import DIST_INFO, MANIFEST_PATH, documents_of, locate
from raystudy.recipes.overlap import HELD_OUT_WORDS, all_runs, share_in

MAX_SHARED_RUNS = 0.2  # a validation document with this share of its 13-word runs in training is dropped
_VALIDATION_SHARE = 0.1  # of the files, by hash; the documents dropped for overlap come off it
_MAX_FILE_BYTES = 120_000
# Parts of paths of files that a build makes, so that they may differ between platforms.
_SKIPPED = ("__config__", "_config", "numpyconfig", "version", "macros", "cmake", "generated", "_antlr")


@dataclass(frozen=True)
class Selection:
    """Files with one of `suffixes` under `folders` of a package, up to `budget_bytes`, for `domains`."""

    package: str
    domains: tuple[str, ...]
    folders: tuple[str, ...]
    suffixes: tuple[str, ...]
    budget_bytes: int
    tests: bool | None = None  # only files in a folder `tests` (True), only others (False), both (None)
    min_file_bytes: int = 6_000

    def takes(self, path: str, size_bytes: int) -> bool:
        in_tests = "/tests/" in path
        return (
            path.startswith(self.folders)
            and path.endswith(self.suffixes)
            and (self.tests is None or self.tests == in_tests)
            and self.min_file_bytes <= size_bytes <= _MAX_FILE_BYTES
            and not any(skipped in path for skipped in _SKIPPED)
        )


_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE.rst", "COPYING", "_DEJAVU", "_STIX")
_PYTHON = ("prose", "code")
_HEADER_FOLDERS = ("torch/include/c10/", "torch/include/ATen/core/", "torch/include/ATen/cpu/",
                   "torch/include/ATen/native/", "torch/include/torch/csrc/")  # fmt: skip

SELECTIONS = (
    Selection("numpy", _PYTHON, ("numpy/",), (".py",), 1_300_000, tests=False),
    Selection("scipy", _PYTHON, ("scipy/",), (".py",), 1_500_000, tests=False),
    Selection("pandas", _PYTHON, ("pandas/",), (".py",), 1_300_000, tests=False),
    Selection("sympy", _PYTHON, ("sympy/",), (".py",), 1_300_000, tests=False),
    Selection("matplotlib", _PYTHON, ("matplotlib/",), (".py",), 1_000_000, tests=False),
    Selection("numpy", ("prose",), ("numpy/",), (".py",), 400_000, tests=False),
    Selection("scipy", ("prose",), ("scipy/",), (".py",), 800_000, tests=False),
    Selection("pandas", ("prose",), ("pandas/",), (".py",), 400_000, tests=False),
    Selection("sympy", ("prose",), ("sympy/",), (".py",), 400_000, tests=False),
    Selection("numpy", ("tests",), ("numpy/",), (".py",), 600_000, tests=True),
    Selection("scipy", ("tests",), ("scipy/",), (".py",), 600_000, tests=True),
    Selection("pandas", ("tests",), ("pandas/",), (".py",), 600_000, tests=True),
    Selection("sympy", ("tests",), ("sympy/",), (".py",), 600_000, tests=True),
    Selection("torch", ("headers",), _HEADER_FOLDERS, (".h",), 2_400_000),
    Selection("numpy", ("headers",), ("numpy/_core/include/",), (".h",), 200_000),
    Selection("numpy", ("stubs",), ("numpy/",), (".pyi",), 1_100_000, min_file_bytes=2_000),
    Selection("matplotlib", ("stubs",), ("matplotlib/",), (".pyi",), 300_000, min_file_bytes=2_000),
    Selection("pandas", ("stubs",), ("pandas/",), (".pyi",), 150_000, min_file_bytes=2_000),
    Selection("torch", ("licences",), (DIST_INFO,), _LICENCES, 500_000, min_file_bytes=500),
    Selection("numpy", ("licences",), (f"{DIST_INFO}licenses/numpy/",), _LICENCES, 100_000, min_file_bytes=500),
    Selection("pandas", ("licences",), (f"{DIST_INFO}licenses/LICENSES/",), _LICENCES, 100_000, min_file_bytes=500),
    Selection("matplotlib", ("licences",), ("matplotlib/",), _LICENCES, 100_000, min_file_bytes=500),
    Selection("numpy", ("tables",), ("numpy/",), (".csv",), 600_000),
    Selection("scipy", ("tables",), ("scipy/stats/tests/", "scipy/spatial/tests/"), (".dat", ".txt"), 350_000),
    Selection("matplotlib", ("tables",), ("matplotlib/mpl-data/sample_data/",), (".csv",), 150_000),
)  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """A chosen file with its text, before overlap is known."""

    package: str
    path: str
    domains: tuple[str, ...]
    content: bytes

    @property
    def part(self) -> str:
        share = int(_path_hash(f"part {self.package} {self.path}")[:13], 16) / 16**13
        return "validation" if share < _VALIDATION_SHARE else "train"

    def documents(self, domain: str) -> list[str]:
        return documents_of(domain, self.content.decode().replace("\r\n", "\n"))

    def all_documents(self) -> Iterator[str]:
        return (text for domain in self.domains for text in self.documents(domain))


def _path_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def candidates(selection: Selection) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of UTF-8 files that the selection takes, in hash order of their paths."""
    distribution = importlib.metadata.distribution(selection.package)
    paths = {
        DIST_INFO + file.as_posix().split("/", 1)[1] if ".dist-info/" in file.as_posix() else file.as_posix()
        for file in distribution.files or ()
    }
    for path in sorted(paths, key=_path_hash):
        if not path.endswith(selection.suffixes) or not path.startswith(selection.folders):
            continue
        content = locate(selection.package, path).read_bytes()
        if not selection.takes(path, len(content)):
            continue
        try:
            content.decode()
        except UnicodeDecodeError:
            continue
        yield path, content


def choose(selection: Selection, taken: set[str]) -> tuple[list[Chosen], int, int]:
    """Files up to the selection's budget that are not in `taken`; number and bytes of all candidates."""
    chosen: list[Chosen] = []
    found = found_bytes = chosen_bytes = 0
    for path, content in candidates(selection):
        found, found_bytes = found + 1, found_bytes + len(content)
        if path not in taken and chosen_bytes + len(content) <= selection.budget_bytes:
            chosen.append(Chosen(selection.package, path, selection.domains, content))
            chosen_bytes += len(content)
    return chosen, found, found_bytes


def overlapping_documents(files: list[Chosen]) -> set[str]:
    """Keys of validation documents of which at least MAX_SHARED_RUNS of the wording is in training text."""
    training = (text for file in files if file.part == "train" for text in file.all_documents())
    runs = all_runs(training, HELD_OUT_WORDS)
    return {
        document_key(text)
        for file in files
        if file.part == "validation"
        for text in file.all_documents()
        if share_in(text, runs, HELD_OUT_WORDS) >= MAX_SHARED_RUNS
    }


def manifest_text(files: list[Chosen], overlapping: set[str]) -> str:
    """The manifest as JSON, one file to a line."""
    lines = ['{"about": "made by python -m raystudy.recipes.embedded.make_manifest", "packages": {']
    packages = sorted({file.package for file in files})
    for package in packages:
        version = importlib.metadata.version(package).split("+")[0]
        lines.append(f'"{package}": {{"version": "{version}", "files": {{')
        rows = sorted((file for file in files if file.package == package), key=lambda file: file.path)
        for row in rows:
            entry = [hashlib.sha256(row.content).hexdigest(), " ".join(row.domains), row.part]
            lines.append(f"{json.dumps(row.path)}: {json.dumps(entry)}{',' if row is not rows[-1] else ''}")
        lines.append("}}" + ("," if package != packages[-1] else ""))
    keys = ",\n".join(json.dumps(key) for key in sorted(overlapping))
    lines.append(f'}}, "overlapping": [\n{keys}\n]}}')
    return "\n".join(lines) + "\n"


def summary(files: list[Chosen], overlapping: set[str]) -> str:
    """A Markdown table of megabytes and documents per domain and part."""
    rows = ["| domain | files | train MB | documents | validation MB | documents | dropped for overlap |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for domain in sorted({domain for file in files for domain in file.domains}):
        own = [file for file in files if domain in file.domains]
        parts = {
            part: [text for file in own if file.part == part for text in file.documents(domain)]
            for part in ("train", "validation")
        }
        kept = [text for text in parts["validation"] if document_key(text) not in overlapping]
        megabytes = [sum(len(text.encode()) for text in texts) / 1e6 for texts in (parts["train"], kept)]
        rows.append(
            f"| {domain} | {len(own)} | {megabytes[0]:.2f} | {len(parts['train'])} | {megabytes[1]:.2f} "
            f"| {len(kept)} | {len(parts['validation']) - len(kept)} |"
        )
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the manifest (`--output` elsewhere) and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=MANIFEST_PATH)
    output: Path = parser.parse_args(arguments).output
    files: list[Chosen] = []
    print("| package | domains | files found | MB found | files chosen | MB chosen |\n|---|---|---|---|---|---|")
    for selection in SELECTIONS:
        taken = {file.path for file in files if file.package == selection.package}
        chosen, found, found_bytes = choose(selection, taken)
        files += chosen
        megabytes = sum(len(file.content) for file in chosen) / 1e6
        print(f"| {selection.package} | {', '.join(selection.domains)} | {found} | {found_bytes / 1e6:.2f} "
              f"| {len(chosen)} | {megabytes:.2f} |")  # fmt: skip
    overlapping = overlapping_documents(files)
    text = manifest_text(files, overlapping)
    output.write_text(text)
    print(f"\n{summary(files, overlapping)}\n\n{output}: {len(files)} files, {len(text) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
