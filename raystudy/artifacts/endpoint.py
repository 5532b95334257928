"""Where a store that is not Amazon's or Google's own is reached, as this process's environment says.

For S3 MinIO, Ceph, R2 and others; for Google Cloud Storage an emulator.
"""

import os
import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from raystudy.errors import StorageError

# The first that is set counts, as for Amazon's and Google's own tools.
_VARIABLES = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("STORAGE_EMULATOR_HOST",)}
_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?")


def endpoint_of(location: str) -> dict[str, str]:
    """The variable that names the endpoint of the storage at `location`, and its URL; empty where none is set.

    Raises:
        StorageError: it is no URL, or holds a user's name or a password, which must not be shown or sent.
    """
    names = _VARIABLES.get(location.partition("://")[0], ())
    name = next((name for name in names if os.environ.get(name)), None)
    if name is None:
        return {}
    url = os.environ[name]
    if name == "STORAGE_EMULATOR_HOST" and "://" not in url:
        url = f"http://{url}"  # HOST:PORT, as Google's own tools take it
    if "@" in url:
        raise StorageError(
            f"{name} must be a URL without a user's name or password, but holds an '@'. Credentials have variables of "
            f"their own (AWS_ACCESS_KEY_ID, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    try:
        is_url = _URL.fullmatch(url) is not None and bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:  # the port, or brackets of an IPv6 address
        is_url = False
    if not is_url:
        shown = repr(url.split("?")[0][:200])
        raise StorageError(f"{name} must be a URL such as http://HOST:9000 or https://HOST, but is {shown}. Correct it")
    return {name: url}


def is_of_this_machine(url: str) -> bool:
    """Whether an endpoint is this machine's own address, under which others reach themselves."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
