"""Where an S3 that is not Amazon's own is reached, as this process's environment says (MinIO, Ceph, R2)."""

import os
import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from raystudy.errors import StorageError

_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first that is set counts, as for Amazon's own tools
_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?")


def s3_endpoint() -> dict[str, str]:
    """The variable that names the endpoint, and its URL; empty where none is set.

    Raises:
        StorageError: it is no URL, or holds a user's name or a password, which must not be shown or sent.
    """
    name = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if name is None:
        return {}
    url = os.environ[name]
    if "@" in url:
        raise StorageError(
            f"{name} must be a URL without a user's name or password, but holds an '@'. Credentials have variables of "
            f"their own (AWS_ACCESS_KEY_ID, AWS_PROFILE)"
        )
    try:
        is_url = _URL.fullmatch(url) is not None and bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:  # the port, or brackets of an IPv6 address
        is_url = False
    if not is_url:
        shown = repr(url.split("?")[0][:200])
        raise StorageError(f"{name} must be a URL such as http://HOST:9000 or https://HOST, but is {shown}. Correct it")
    return {name: url}


def endpoint_of(location: str) -> dict[str, str]:
    """As `s3_endpoint` for the storage at `location`; empty for one that is not reached through S3."""
    return s3_endpoint() if location.startswith("s3://") else {}


def is_of_this_machine(url: str) -> bool:
    """Whether an endpoint is this machine's own address, under which others reach themselves."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
