"""How each kind of object store is opened, and what is done by its own calls: S3, Google Cloud Storage, memory.

The rest goes through fsspec, in `remote_files`. No store's package tries again by itself: `remote_retries` does.
"""

import json
import re
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.endpoint import endpoint_of

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from upath import UPath

CONCURRENCY = 32  # calls at a time; half a second of 20 ms calls for 1,000 objects
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_TRIED_BY_GCSFS = ("_request", "_get_file_request")  # each six times, for half a minute
_OF_A_BUCKET = re.compile(r".*/storage/v1/b/[^/]+(/o)?")  # in the path of an object its own slashes are escaped


def options_of(protocol: str) -> dict[str, Any]:
    """How fsspec opens a storage of this kind: without caches of listings, and without tries of its own.

    Raises:
        StorageError: the endpoint that the environment names is none.
    """
    # Both packages would take the endpoint from the environment too; given here, it tells two storages of one process
    # apart.
    url = next(iter(endpoint_of(f"{protocol}://").values()), None)
    if protocol == "s3":
        # botocore takes region and credentials from the environment, its files or the machine's role.
        config: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
        config |= {"retries": {"total_max_attempts": 1}, "max_pool_connections": 2 * CONCURRENCY}
        options: dict[str, Any] = {"use_listings_cache": False, "config_kwargs": config}
        return options | ({"endpoint_url": url} if url else {})
    return _options_of_google(url) if protocol == "gs" else {}


def _options_of_google(url: str | None) -> dict[str, Any]:
    """Credentials as Google's own libraries find them (environment, gcloud's file, the machine's role); to an emulator
    none are sent. gcsfs alone would also take what it keeps in the home folder, and at last go on without any.
    """
    from aiohttp import ClientTimeout
    from fsspec import register_implementation

    register_implementation("gs", _google(), clobber=True)
    return {
        "project": "",  # only to list buckets
        "token": "anon" if url else "google_default",
        "endpoint_url": url,
        "use_listings_cache": False,
        "requests_timeout": ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS),
        "session_kwargs": {"raise_for_status": _refuse},
    }


@cache
def _google() -> Any:
    """gcsfs' plain class, without its own tries.

    It speaks HTTP alone. gcsfs' default asks by gRPC what kind of bucket it is before the first write, which no
    emulator answers and which takes a right of its own; what that one knows more (zonal buckets) is of no use here.
    """
    from gcsfs.core import GCSFileSystem

    tried = {name: getattr(GCSFileSystem, name) for name in _TRIED_BY_GCSFS}
    once = {name: getattr(method, "__wrapped__", method) for name, method in tried.items()}
    return type("GoogleCloudStorage", (GCSFileSystem,), once)


async def _refuse(response: "ClientResponse") -> None:
    """Raise what an answer of Google Cloud Storage means where gcsfs leaves that out or takes it for something else.

    It takes every 404 for an object that is not there, and an error of the server whose text says "invalid" for a bad
    request; see `validate_response` in its retry.py. 499 is the answer to breaking off an upload.
    """
    status = response.status
    if status < HTTPStatus.BAD_REQUEST or status in (HTTPStatus.FORBIDDEN, HTTPStatus.PRECONDITION_FAILED, 499):
        return
    sentence = _sentence(await response.text(errors="replace"))
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE) and "upload_id" in response.url.query:
        status, sentence = HTTPStatus.SERVICE_UNAVAILABLE, "the store no longer knows this upload"  # so begin it anew
    if status == HTTPStatus.NOT_FOUND:
        is_bucket = _OF_A_BUCKET.fullmatch(response.url.raw_path) is not None
        raise FileNotFoundError("The specified bucket does not exist." if is_bucket else sentence)
    from gcsfs.retry import HttpError

    raise HttpError({"code": int(status), "message": sentence})


def _sentence(text: str) -> str:
    """What a refusal of Google Cloud Storage says for people to read."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text


def filesystem(path: "UPath") -> Any:
    """fsspec's file system for `path`; raises whatever it raises where it cannot be made."""
    fs = path.fs
    if path.protocol == "s3":
        fs.retries = 1  # one place tries again
    return fs


def one_request(protocol: str) -> dict[str, Any]:
    """What makes reading a whole object one request, which else asks for its size before."""
    return {"s3": {"max_concurrency": 1}, "gs": {"concurrency": 1}}.get(protocol, {})


def delete_the_same(path: "UPath", identity: str) -> None:
    """Delete an object on condition that it is the one of this identity, where the store knows such conditions.

    Raises whatever the store's package raises, a refused condition as FileExistsError among others.
    """
    fs = filesystem(path)
    if path.protocol == "s3":
        bucket, key, _ = fs.split_path(path.path)
        fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=identity)
    elif path.protocol == "gs":
        bucket, key, _ = fs.split_path(path.path)
        fs.call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=identity)
    else:
        fs.rm_file(path.path)
