"""Which raystudy this process runs: the digest of its own source, by which a worker is told from one of other code."""

import hashlib
from functools import cache
from pathlib import Path

import raystudy


@cache
def code_digest() -> str:
    """First 16 hexadecimal digits of the SHA-256 of all of the package's Python files, names included."""
    root = Path(raystudy.__file__).resolve().parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
