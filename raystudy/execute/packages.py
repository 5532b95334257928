"""Packages that training needs: whether they are there, in a version that raystudy supports, and can be imported.

torch and DeepSpeed are imported in processes of their own: what goes wrong there is told, not shared.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

IMPORT_SECONDS = 180.0  # an import that takes longer hangs; cold, on a slow disk, torch has taken a minute
_ABOUT = {"torch": "raystudy.train.about_torch", "deepspeed": "raystudy.reference.about_deepspeed"}


@dataclass(frozen=True)
class Package:
    """What is known of one package. `version`: empty where it is not installed; `trouble`: why it is of no use."""

    name: str
    version: str = ""
    trouble: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def is_missing(self) -> bool:
        """Whether it is not installed."""
        return not self.version and not self.trouble

    @property
    def supported(self) -> str:
        """The versions that raystudy supports, as pip writes them; empty: any."""
        return supported_versions().get(self.name, "")

    @property
    def is_supported(self) -> bool:
        """Whether its version is one of those."""
        from packaging.specifiers import SpecifierSet  # matplotlib needs it too

        return SpecifierSet(self.supported).contains(self.version, prereleases=True)


@lru_cache(maxsize=1)
def supported_versions() -> dict[str, str]:
    """The ranges that raystudy's own metadata name, by package; none where it is not installed as a package."""
    from packaging.requirements import InvalidRequirement, Requirement

    ranges: dict[str, str] = {}
    try:
        texts = requires("raystudy") or []
    except PackageNotFoundError:
        return ranges
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        pinned = any(clause.operator == "==" for clause in requirement.specifier)  # the embedded corpus's, not a range
        if requirement.specifier and not pinned:
            ranges[requirement.name] = str(requirement.specifier)
    return ranges


def installed(name: str) -> Package:
    """A package by its metadata alone, not imported."""
    try:
        return Package(name, version(name))
    except PackageNotFoundError:
        return Package(name)


def imported(name: str, seconds: float = IMPORT_SECONDS) -> Package:
    """torch or deepspeed, imported in another process, with what it says of itself."""
    command = [sys.executable, "-m", _ABOUT[name]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Package(name, trouble=f"its import took longer than {seconds:.0f} s")
    except OSError as error:
        return Package(name, trouble=f"no process can be started to import it ({error})")
    if done.returncode:
        return Package(name, trouble=f"its import fails ({_ended(done.returncode)}): {_cause(done.stderr)}")
    try:
        about = json.loads(done.stdout.strip().splitlines()[-1])
        return Package(name) if about.get("missing") else Package(name, str(about["version"]), about=about)
    except (IndexError, KeyError, ValueError, AttributeError):
        return Package(name, trouble="its import ends without a word")


def _ended(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def _cause(text: str) -> str:
    """The line that tells an error: of a traceback the one after its indented lines, else the first."""
    lines = [line for line in text.splitlines() if line.strip()]
    begun = next((at for at, line in enumerate(lines) if line.startswith("Traceback ")), None)
    after = [] if begun is None else [line for line in lines[begun + 1 :] if not line.startswith(" ")]
    return (after or lines or ["without a word"])[0].strip()
