"""What keeps us from a cluster's job server, or what it refuses, each as one message with what to do."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from raystudy.errors import RaystudyError

CONNECT_SECONDS = 10.0
_STATUS = re.compile(r"status code (\d+)")


class JobServerError(RaystudyError):
    """The job server cannot be used: not there, not one, no token, or it refuses what is asked."""


class LostError(JobServerError):
    """The job server does not answer now; it may again."""


class JobExistsError(JobServerError):
    """A job of this id is there already."""


class NoSuchJobError(JobServerError):
    """There is no job of this id."""


def no_server(url: str, how: str) -> JobServerError:
    """The error for something that answers at `url` and is no job server."""
    return JobServerError(
        f"a job server of Ray must answer at {url}, but what is there {how}. Give the dashboard's port (8265 unless "
        f"set by --dashboard-port), not the cluster's own (6379, --port)"
    )


def unreachable(url: str, error: BaseException) -> LostError:
    """The error for a job server that does not answer."""
    reason = getattr(error, "reason", error)
    why = str(reason) or type(reason).__name__
    if isinstance(reason, ConnectionRefusedError):
        why = "nothing listens at that port"
    elif isinstance(reason, socket.gaierror):
        why = "there is no such host"
    elif isinstance(reason, TimeoutError):
        why = f"nothing answered within {CONNECT_SECONDS:.0f} s"
    return LostError(
        f"a job server must answer at {url}, but {why}. Check --address and that the cluster runs; a dashboard on the "
        f"head's loopback is reached through `ssh -L 8265:127.0.0.1:8265 HEAD` and --address http://127.0.0.1:8265"
    )


_TOKEN = (
    "Set RAY_AUTH_MODE=token in this shell, and RAY_AUTH_TOKEN_PATH=/path/to/token or RAY_AUTH_TOKEN=... to the "
    "cluster's token (on its head it is ~/.ray/auth_token unless set)"
)


@contextmanager
def told_errors(url: str, job_id: str = "") -> Iterator[None]:
    """Turn what Ray's client raises into one message.

    Raises:
        JobServerError: with what to do.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except RaystudyError:
        raise
    except AuthenticationError as error:
        raise JobServerError(_token_words(url, str(error))) from error
    except (requests.exceptions.RequestException, ConnectionError, TimeoutError) as error:
        raise unreachable(url, _cause(error)) from error
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _refusal(url, job_id, str(error)) from error


def _token_words(url: str, said: str) -> str:
    """By how Ray's client begins what it says: HTTP 401, HTTP 403, or a token that it cannot find here."""
    if said.startswith("Authentication failed"):
        return f"{url} must be given its own token, but refuses this one (HTTP 403). {_TOKEN}"
    if said.startswith("Authentication required"):
        return f"{url} wants a token and got none (HTTP 401). {_TOKEN}"
    return f"a token must be found here where RAY_AUTH_MODE=token, but none was. {_TOKEN}"


def _cause(error: BaseException) -> BaseException:
    """The system's own error behind those of libraries; the error itself where there is none."""
    waiting, seen = [error], set()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, ConnectionRefusedError | socket.gaierror | TimeoutError):
            return found
        behind = (*found.args, getattr(found, "reason", None), found.__cause__, found.__context__)
        waiting += [other for other in behind if isinstance(other, BaseException)]
    return error


def _refusal(url: str, job_id: str, said: str) -> JobServerError:
    status = _STATUS.search(said)
    last = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "no reason given").strip()
    lowered = said.lower()
    if "already exists" in lowered:
        return JobExistsError(f"{url} has a job {job_id} already")
    if "does not exist" in lowered and job_id:
        return NoSuchJobError(f"{url} must have a job {job_id}, but has none. `raystudy jobs` lists those it has")
    if "no available agent" in lowered:
        return JobServerError(
            f"no available agent to start a job at {url}: the head has just started, or another cluster on its "
            f"machine holds the port of its agent. Wait, or start it with --dashboard-agent-listen-port"
        )
    if (status and status[1] == "413") or "maximum request body size" in lowered:
        return JobServerError(
            f"{url} takes no upload of this size (100 MiB). Put sources on storage that all nodes see and name them "
            f"by absolute path"
        )
    return JobServerError(f"{url} refuses: {last}")
