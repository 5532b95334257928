"""Where a remote storage lies: reads its URI, finds the packages that reach it, and sees that it keeps its promises."""

import re
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from raystudy.artifacts import object_stores, remote_files
from raystudy.artifacts.files import broken_promise, writing_name
from raystudy.artifacts.remote_retries import patience
from raystudy.errors import MissingPackageError, StorageError, UnwritableError

if TYPE_CHECKING:
    from upath import UPath

# Protocol: the package that knows it, and the extra that installs that. Memory is one process's own, for tests.
_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "memory": ("fsspec", "")}
_URI = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]*)://(?P<bucket>[^/]*)(?P<prefix>.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_PREFIX = re.compile(r"(/+[A-Za-z0-9 ._=,+-]+)*/*")
_LAST_PATIENCE_SECONDS = 2.0  # with removing the probe; what stays of it is never read
_FIRST_PATIENCE_SECONDS = 20.0  # an endpoint that was mistyped should be told of soon


def is_uri(location: str) -> bool:
    """Whether a storage is named by a URI and not by a path."""
    return "://" in location


def open_root(location: str) -> "UPath":
    """The folder that a URI names; asks nothing of the storage.

    Raises:
        StorageError: it is no URI of a storage, or holds credentials, which it must not show.
        MissingPackageError: the package that reaches it is not installed.
    """
    matched = _URI.fullmatch(location)
    protocol = matched["protocol"].lower() if matched else ""
    if matched is None or protocol not in _PACKAGES:
        shown = f"{protocol}://..." if protocol else "something else"
        raise StorageError(
            f"the storage must be a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, but is {shown}. Give one of these"
        )
    if "@" in location or "?" in location or "#" in location or ":" in matched["bucket"]:
        raise StorageError(
            f"the storage's URI must hold a bucket and a prefix and no credentials or options, but this {protocol}:// "
            f"has an '@', '?', '#' or ':'. Credentials come from the environment or the machine's role, the endpoint "
            f"from AWS_ENDPOINT_URL"
        )
    parts = matched["prefix"].split("/")
    if not _BUCKET.fullmatch(matched["bucket"]) or not _PREFIX.fullmatch(matched["prefix"]) or {".", ".."} & {*parts}:
        raise StorageError(
            f"the storage must be {protocol}://BUCKET/PREFIX of letters, digits and '._=,+-', but is {location!r}"
        )
    package, extra = _PACKAGES[protocol]
    if find_spec(package) is None or find_spec("upath") is None:
        raise MissingPackageError(
            f"a storage at {protocol}:// needs the package {package}, which is not installed. "
            f"Install it with: pip install 'raystudy[{extra}]'"
        )
    from upath import UPath

    clean = "/".join([matched["bucket"], *filter(None, parts)])
    root: UPath = UPath(f"{protocol}://{clean}", **object_stores.options_of(protocol))
    return root


def check_promises(root: "UPath") -> None:
    """See that the storage can be written, read and listed, and that of two writers of one name the first wins.

    Raises:
        UnwritableError, UnreadableError: it cannot.
    """
    probe = root / writing_name()
    with patience(_FIRST_PATIENCE_SECONDS):
        try:
            broken = broken_promise(probe)
        finally:
            with suppress(StorageError), patience(_LAST_PATIENCE_SECONDS):
                remote_files.remove(probe)
    if broken:
        raise UnwritableError(
            f"the storage must refuse to write what is there already (a PUT with If-None-Match: * or "
            f"ifGenerationMatch=0), and read and list what was written, but at {root} {broken}. Use a store that knows "
            f"conditional writes (AWS S3, MinIO, Google Cloud Storage, Ceph and others in new versions), or a folder"
        )
