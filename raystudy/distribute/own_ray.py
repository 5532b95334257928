"""The Ray that a launch starts for itself: it listens on loopback alone, and wants a token that is made for it."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raystudy.execute.local import num_cores

_OBJECT_STORE_BYTES = 100_000_000  # tasks and reports are small; shards are memory-mapped files
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def own_options() -> dict[str, Any]:
    """What `ray.init` is given for it, beside its address `local`."""
    return {"include_dashboard": False, "num_cpus": num_cores(), "object_store_memory": _OBJECT_STORE_BYTES}


@contextmanager
def kept_to_this_machine() -> Iterator[None]:
    """Inside, a Ray that this process starts is for this machine and its token's holders alone; it must end inside too.

    A mode or a token that a person has set stays. Ray must be installed.
    """
    with _private_token(), _on_loopback():
        yield


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray takes the host's address for a node even where it is told 127.0.0.1, and its servers then listen everywhere.

    It takes loopback, and they listen there alone, where its switch for clusters is off, as it is on macOS and Windows
    (`services.get_node_ip_address` in Ray 2.58 to 2.60).
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _private_token() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN_PATH)}
    with tempfile.TemporaryDirectory(prefix="raystudy-token-", ignore_cleanup_errors=True) as folder:
        wants_token = os.environ.setdefault(_MODE, "token").lower() == "token"
        if wants_token and not (os.environ.get(_TOKEN) or os.environ.get(_TOKEN_PATH)):
            path = Path(folder) / "token"  # the folder is this user's alone
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
            os.environ[_TOKEN_PATH] = str(path)
        _read_again()
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            _read_again()


def _read_again() -> None:
    """Ray keeps in a process what it once read of these variables."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
