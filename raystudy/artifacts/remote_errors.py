"""What a remote storage's errors mean: whether trying again may help, and what to tell the user.

Knows the errors of s3fs (botocore's codes and HTTP status behind them), gcsfs and the network; does no I/O itself.
"""

import asyncio
import errno
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from raystudy.errors import StorageError, UnreadableError, UnwritableError

if TYPE_CHECKING:
    from upath import UPath

# S3's own names (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html); 409: two conditional writes met.
_PASSING_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "TooManyRequestsException",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "RequestTimeoutException",
        "PriorRequestNotComplete",
        "XAmzContentSHA256Mismatch",
        "BadDigest",
    }
)
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNO = frozenset({
    errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE,
    errno.EHOSTUNREACH, errno.ENETUNREACH, getattr(errno, "EREMOTEIO", errno.EIO),
})  # fmt: skip
# By name, so that none of these packages is loaded for it.
_NETWORK = frozenset(
    {
        "EndpointConnectionError",
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "HTTPClientError",
        "ClientConnectionError",
        "ConnectionError",
        "ProxyConnectionError",
        "ResponseStreamingError",
        "IncompleteReadError",
        "ResponseParserError",
        "ServerDisconnectedError",
        "ClientOSError",
        "ClientPayloadError",
        "ClientConnectorError",
        "ServerTimeoutError",
        "IncompleteRead",
        "ChunkedEncodingError",
        "Timeout",
        "ReadTimeout",
        "ProxyError",
        "TransportError",
        "ChecksumError",
        "CredentialRetrievalError",
        "MetadataRetrievalError",
    }
)
_PACKAGES = frozenset(
    {"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "requests", "urllib3", "fsspec"}
)
_FULL_STATUS = frozenset({413, 507})
_FULL_CODES = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge"})
_NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist", re.IGNORECASE)
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's service account",
}


def is_foreign(error: Exception) -> bool:
    """Whether an error came from the storage, the network or their packages, and not from a defect of this program."""
    return isinstance(error, OSError | asyncio.TimeoutError) or type(error).__module__.split(".")[0] in _PACKAGES


def is_passing(error: Exception) -> bool:
    """Whether what went wrong may be over soon: throttling, errors of the server, a network that fails."""
    code, status = code_of(error), status_of(error)
    if code in _FULL_CODES or status in _FULL_STATUS:
        return False
    if code in _PASSING_CODES or status in _PASSING_STATUS:
        return True
    if any(getattr(each, "retryable", None) is True for each in _chain(error)):  # google.auth: no token just now
        return True
    if status is not None or isinstance(error, FileNotFoundError | FileExistsError) or _is_refused(error):
        return False
    if any(type(each).__name__ in _NETWORK or isinstance(each, TimeoutError) for each in _chain(error)):
        return True
    return isinstance(error, OSError) and error.errno in (None, *_PASSING_ERRNO)


def _is_refused(error: Exception) -> bool:
    """Whether the rights or the credentials do not suffice."""
    if isinstance(error, PermissionError) or status_of(error) in (401, 403):
        return True
    # gcsfs makes of HTTP 403 a bare OSError (its retry.py, `validate_response`).
    return isinstance(error, OSError) and error.errno is None and "Forbidden" in str(error)


def is_taken(error: Exception) -> bool:
    """Whether a conditional write was refused, since there is something of that name."""
    return isinstance(error, FileExistsError) or code_of(error) == "PreconditionFailed" or status_of(error) == 412


def is_missing_bucket(error: Exception) -> bool:
    """Whether there is no such bucket, which is no "not there" of a file."""
    return code_of(error) == "NoSuchBucket" or any(_NO_BUCKET.search(str(each)) for each in _chain(error))


def code_of(error: BaseException) -> str:
    """The storage's own name for the error, or an empty text."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return str(response["Error"].get("Code", ""))
    return ""


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, where there is one."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        found = getattr(each, "code", None) if found is None and type(each).__name__ == "HttpError" else found
        if isinstance(found, int | str) and str(found).isdigit():
            return int(found)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def told(error: Exception, path: "UPath", *, writes: bool, waited_seconds: float = 0.0) -> StorageError:
    """The error for the user: what must hold, what came, and the way out."""
    kind: type[StorageError] = UnwritableError if writes else UnreadableError
    path = path.parent if path.name.startswith(".writing-") else path  # a probe, which nobody knows by name
    bucket, what = f"{path.protocol}://{path.drive or path.parts[0]}", _said(error)
    if is_missing_bucket(error):
        return kind(f"the storage must be in a bucket that is there, but there is no {bucket}. Make it or name another")
    status, code = status_of(error), code_of(error)
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
        way_out = f"Set {CREDENTIALS.get(path.protocol, 'them')}; they belong in no study file and no URI"
        return kind(f"{bucket} needs credentials, but found none that are whole ({what}). {way_out}")
    if _is_refused(error) or "Forbidden" in what:
        verbs = "write and delete" if writes else "list and read"
        return kind(
            f"the storage's credentials must allow to {verbs} {path}, but the storage refuses that ({what}). Check "
            f"{CREDENTIALS.get(path.protocol, 'the credentials')}, their rights, and this machine's clock"
        )
    if is_passing(error):
        variable = _ENDPOINTS.get(path.protocol, "none")
        return kind(
            f"{bucket} must be reachable, but for {waited_seconds:.0f} s every try failed, at last with: {what}. Check "
            f"the network, and the endpoint ({variable} for {path.protocol}); finished runs are kept, and the same "
            f"command goes on from them"
        )
    if writes:
        full = " is full" if status in _FULL_STATUS or code in _FULL_CODES else ""
        return kind(
            f"the storage must be writable, but {path}{full}: {what}. Make room and rights there or choose another "
            f"with --storage; finished runs are kept, and the same command goes on from them"
        )
    return kind(f"{path} cannot be read: {what}. Check the storage and the rights there")


def _said(error: Exception) -> str:
    """The error in one line without secrets: the storage's code, the HTTP status, its sentence."""
    sentence = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    code, status = code_of(error), status_of(error)
    about = ", ".join([*([code] if code else []), *([f"HTTP {status} {_phrase(status)}"] if status else [])])
    return without_secrets(f"{about}: {sentence}" if about else sentence)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def without_secrets(text: str) -> str:
    """`text` with the credentials of this process's environment replaced."""
    for name in _SECRETS:
        value = os.environ.get(name, "")
        if len(value) >= 4:
            text = text.replace(value, f"({name})")
    return text
